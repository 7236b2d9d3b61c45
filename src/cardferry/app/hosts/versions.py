"""Two computers with cardferry in different versions: which end is the older one, and how it catches up."""

from __future__ import annotations

import re
from typing import Final

from cardferry import __version__
from cardferry.app.runtime.paths import this_computer
from cardferry.wire.link.greeting import VERSION

_NUMBER: Final = re.compile(r"\d+")
#: What `cardferry.wire.link.greeting.agree` says of the older end.
_SPEAKS: Final = re.compile(r"speaks version (\d+) of the link")


def difference(host: str, software: str) -> str:
    """What a person is told when both ends understand each other, but one is older; "" when none is.

    Args:
        host: as on the command line.
        software: what the other end calls itself, such as ``cardferry 0.1.0``.
    """
    theirs = software.removeprefix("cardferry ")
    if not _NUMBER.search(theirs) or _numbers(theirs) == _numbers(__version__):
        return ""
    older = _numbers(theirs) < _numbers(__version__)
    return f"{host} has cardferry {theirs}, this is {__version__}; {there(host) if older else here()}"


def refusal(host: str, said: str) -> str:
    """What helps when the two are too far apart.

    Args:
        host: as on the command line, "" if it is not reached with ssh.
        said: how the link was refused.
    """
    speaks = _SPEAKS.search(said)
    if speaks is not None and int(speaks[1]) == VERSION:
        return here()
    return there(host) if host else "bring that one up to date"


def there(host: str) -> str:
    """How the other end catches up."""
    return f"to bring it up to date: cardferry setup {host}"


def here() -> str:
    """How this end catches up."""
    return f"to catch up: uv tool upgrade cardferry; or over there, cardferry setup {this_computer()}"


def _numbers(version: str) -> list[int]:
    return [int(one) for one in _NUMBER.findall(version)[:3]]
