"""Where messages of links are sent: words that name host, guest and pipe; ``up`` to the host, ``down`` from it."""

from __future__ import annotations

from typing import NamedTuple


class Ends(NamedTuple):
    """Of a pipe: the guest's name, as NATS has let it say it, and the pipe's number."""

    guest: str
    number: str


def up(host: str, guest: str = "*", number: str = "*") -> str:
    """What a guest sends; the default is for the host that listens to all."""
    return f"cardferry.link.{host}.{guest}.{number}.up"


def down(host: str, guest: str, number: str) -> str:
    """What the host sends."""
    return f"cardferry.link.{host}.{guest}.{number}.down"


def ends(subject: str) -> Ends:
    """Of which pipe a message is that has come to `up`."""
    words = subject.split(".")
    return Ends(words[3], words[4])
