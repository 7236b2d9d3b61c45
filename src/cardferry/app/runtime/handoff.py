"""What comes along with streams that are handed over from one process to another. Only light imports."""

from __future__ import annotations

import msgspec

from cardferry.app.runtime.request import Request
from cardferry.pcsc.caller import PrincipalKind


class Handoff(msgspec.Struct, frozen=True):
    """What comes along with the streams.

    Attributes:
        name: who is at their other end, for people.
        principal: who that is, as sshd has proved it to the process that ssh started: kind and name.
        token: a secret of that end, which proves that it was here before; empty where that does not matter.
        request: what it is to be served with; None for what the one that takes the streams serves anyway.
        idle: s that the one that takes the streams shall stay when nobody is there any more, if it leaves at all.
        direct: whether it may have connections of its own besides; None where the session of ssh does not say.
        address: of this computer, at which it was reached.
        direct_ports: where it may have them; any where that is empty.
    """

    name: str
    token: str = ""
    principal: tuple[PrincipalKind, str] = (PrincipalKind.SSH, "")
    request: Request | None = None
    idle: float = 0.0
    direct: bool | None = None
    address: str = ""
    direct_ports: str = ""
