"""Who calls: the program, the guest session it came through, and on whose behalf, as this computer has proved it.

Rules, isolation, records and fairness speak of the `Principal`. What a guest says of itself and of its programs is kept
apart (`Program.proved`, `Caller.guest`): it is shown to people, marked, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_BY_HOST: Final[ContextVar[bool]] = ContextVar("_BY_HOST", default=False)


class PrincipalKind(StrEnum):
    """How this computer has proved who a principal is."""

    #: A program on this computer, at our socket; the kernel has told its user (``SO_PEERCRED``).
    LOCAL_USER = "local-user"
    #: Came through sshd: the account, or its key, or the name that ``authorized_keys`` gives to the key. Of a `share`:
    #: the destination that was dialled.
    SSH = "ssh"
    #: A link through a Unix socket; the kernel has told the user.
    UNIX = "unix"
    #: A link from a virtual machine; the kernel has told its CID.
    VSOCK = "vsock"
    #: A link over TLS: the name in the certificate of the guest.
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a call is made.

    Attributes:
        kind: how that was proved.
        name: a user, key, destination or machine; unique within the kind.
    """

    kind: PrincipalKind
    name: str

    def __str__(self) -> str:
        """As rules write it: ``ssh:build1``."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Program:
    """The program that calls.

    Attributes:
        name: its command's name; words such as ``a program`` where nobody knows.
        pid, uid: process and user id on its own computer, None where they are not known.
        proved: whether this computer's kernel told all that; otherwise the guest says so.
    """

    name: str = "a program"
    pid: int | None = None
    uid: int | None = None
    proved: bool = False

    def __str__(self) -> str:
        """In words, such as ``opensc-tool (process 4711, user 1000)``."""
        ids = (("process", self.pid), ("user", self.uid))
        known = [f"{what} {number}" for what, number in ids if number is not None]
        return f"{self.name} ({', '.join(known)})" if known else self.name


@dataclass(frozen=True, slots=True)
class Caller:
    """Who opens a context.

    Attributes:
        principal: see `Principal`.
        program: see `Program`.
        session: the number of the guest session that the call came through, unique in this process; 0 when the program
            is on this computer.
        guest: what the guest calls itself; it proves nothing.
    """

    principal: Principal
    program: Program = Program()
    session: int = 0
    guest: str = ""

    def __str__(self) -> str:
        """In words, for people."""
        return f"{self.program} on {self.guest}" if self.guest else str(self.program)

    def same_process(self, other: Caller) -> bool:
        """Whether both are one process, as far as it is known."""
        pid = self.program.pid
        return pid is not None and (self.session, pid) == (other.session, other.program.pid)


@contextmanager
def by_host_itself() -> Iterator[None]:
    """Calls that begin inside are the host's own: it runs ahead, or asks a reader what it can do.

    Not around an ``await`` that does not run in a task of its own.
    """
    token = _BY_HOST.set(True)
    try:
        yield
    finally:
        _BY_HOST.reset(token)


def is_by_host_itself() -> bool:
    """Whether the call that begins now is the host's own, and no program has made it."""
    return _BY_HOST.get()
