"""``cardferry doctor``: what is wrong, and how to mend it.

`finding` is what a probe finds; `here` looks at this computer, `programs` at the programs that use cards, `there` at
the host, `reading` at the readers behind a socket, `levels` knows which versions get along; `examine` runs all of
them, each for itself: one that fails does not keep the others from looking.
"""

from cardferry.app.doctor.examine import examine
from cardferry.app.doctor.finding import Finding, State

__all__ = ["Finding", "State", "examine"]
