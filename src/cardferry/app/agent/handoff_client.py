"""Handing standard streams from the process that ssh has started to one that stays, as descriptors (``SCM_RIGHTS``).

The process that ssh has started asks at a private Unix socket, gives its standard input and output away, and waits:
sshd ends the session when it ends. No byte of the link passes through it. It says on standard error what the
one that stays has to tell (`StartReport`): that is what reaches the person on the other computer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from cardferry.app.runtime.request import Request
from cardferry.app.runtime.silent import check_not_stopped
from cardferry.app.runtime.spawn import BackgroundError, decode, reach
from cardferry.pcsc.caller import PrincipalKind
from cardferry.system.descriptors import receive_descriptors, send_descriptors

#: What the other side's `open_session` looks for in what a session complains of.
SERVING: Final = "cardferry is serving "
_MAX_GREETING: Final = 4096
#: Bytes of the longest token.
_MAX_TOKEN: Final = 128
_ATTEMPTS: Final = 3


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


def read_token() -> str:
    """The token in the first line of standard input, of which nothing more is read: the rest belongs to the link.

    It comes this way because everybody can see the words of a command line.
    """
    token = b""
    while len(token) < _MAX_TOKEN and (byte := os.read(0, 1)) not in (b"", b"\n"):
        token += byte
    return token.decode("ascii", errors="replace")


def hand_over(path: Path, handoff: Handoff, start: Callable[[], None]) -> None:
    """Give this process's standard input and output away; returns when they are not used any more.

    Args:
        path: where the process listens that takes them.
        handoff: what comes along.
        start: starts that process when nobody listens; returns when it does.

    Raises:
        BackgroundError: they are not taken, because that process is stopped, say; or they were of no use later.
    """
    for _ in range(_ATTEMPTS):
        with reach(path, start) as connection, connection.makefile("rb") as reports:
            check_not_stopped(connection)  # before: sshd waits for streams that are on their way to nowhere
            _send(connection, handoff)
            line = _line(reports)
            if not line:
                continue  # it was about to leave
            decode(line).check()
            _let_go()
            while line := _line(reports):
                told = decode(line)
                told.check()
                if told.serving:
                    print(f"{SERVING}{told.serving}", file=sys.stderr, flush=True)
            return
    raise BackgroundError(f"who listens at {path} does not take what it is given", "end that process, and try again")


def _line(reports: IO[bytes]) -> bytes:
    try:
        return reports.readline(_MAX_GREETING)
    except OSError:
        return b""


def _send(connection: socket.socket, handoff: Handoff) -> None:
    with contextlib.suppress(OSError):  # then it does not answer either
        send_descriptors(connection, msgspec.json.encode(handoff), (0, 1))


def _let_go() -> None:
    """The streams are somebody else's now: when that one closes them, the other side must see it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def receive(connection: socket.socket) -> tuple[Handoff | None, list[int], bytes]:
    """Take streams and what comes along from a connection that can be read; the descriptors are the caller's to close.

    Returns:
        None, no descriptors and what has come instead, for anything else.

    Raises:
        OSError: this process has no descriptors left.
    """
    try:
        data, descriptors = receive_descriptors(connection, _MAX_GREETING, 2)
    except ConnectionError:
        return None, [], b""
    if descriptors:
        try:
            return msgspec.json.decode(data, type=Handoff), descriptors, b""
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # the last for what is nested too deeply
            for descriptor in descriptors:
                os.close(descriptor)
            return None, [], b""
    return None, [], data
