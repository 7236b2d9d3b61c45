"""The link: one `ResourceManager` across two computers.

`Guest` is a resource manager that is answered by another computer; `LinkServer` serves one to guests. Between them runs
one session per guest, over one pipe after the other. A call takes this way::

    GuestCard -> Guest -> Channel ~~ pipe ~~ Channel -> HostSession -> Lane -> HostCard -> any ResourceManager

`channel` drives the session machine of `cardferry.wire.link` over pipes, `messages` is what is said. On the guest's
side `readers` and `facts` hold what need not be asked, `foreseen` the responses that came ahead. On the host's side
`lane` keeps each context's calls in order, and `accelerate` decides what is worth running ahead.
"""

from cardferry.link.guest import Guest, GuestStatus, LinkRefusedError, LinkState
from cardferry.link.host_memory import Memories
from cardferry.link.host_server import LinkServer, LinkServerStatus
from cardferry.link.settings import Limits
from cardferry.wire.link.session import Timing

__all__ = [
    "Guest",
    "GuestStatus",
    "Limits",
    "LinkRefusedError",
    "LinkServer",
    "LinkServerStatus",
    "LinkState",
    "Memories",
    "Timing",
]
