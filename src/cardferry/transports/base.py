"""What a transport is to the layers above: a pipe for bytes, both ways, and the address that leads to one.

Calls and callbacks happen in the event loop's thread, in the manner of `asyncio.Protocol`, because streams cost
25 to 80 us a round trip where this costs 15. A pipe keeps the order of its bytes, and either delivers them or is lost:

1. A pipe is connected when a program gets it. It holds what arrives until `Pipe.start` names its user.
2. Bytes come in pieces of any size by `PipeUser.received`. `Pipe.pause_reading` stops that, soon.
3. `Pipe.write` never waits. When too much is under way, `PipeUser.congested` says True: write no more until it
   says False.
4. `PipeUser.lost` is the last thing that a user hears, exactly once, whoever ended the pipe: None when an end closed
   it, otherwise what went wrong. After `Pipe.close` what was written is still delivered; after `Pipe.abort` it is not.

An `Address` is what `registry` knows of a transport: how people write it, how to dial it, how to listen there, who is
at the other end, and what to tell people when that is nobody, or somebody else.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import ClassVar, Final, NamedTuple, NoReturn, Self, TypeAlias
from typing import Protocol as Interface

from cardferry.pcsc.caller import Principal
from cardferry.transports.errors import NoHostError, TransportError
from cardferry.transports.sockets import Access

Socket: TypeAlias = socket.socket

#: Bytes on their way in one direction before a user is asked to pause.
HIGH_WATER = 256 * 1024
#: What somebody can do whom a host does not want, where nothing more is known.
ASK_STATUS: Final = "see what its `cardferry status` says"
#: Likewise, where guests join.
HOW_TO_JOIN = "at the host: cardferry invite NAME; here: cardferry join, with the line that it prints"


class PipeUser(Interface):
    """Who uses a pipe."""

    def received(self, data: bytes) -> None:
        """Bytes came, at least one."""
        ...

    def congested(self, congested: bool) -> None:
        """The other end, or the way to it, is slower than what was written; or it has caught up again."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone; nothing comes after this."""
        ...


class Pipe(Interface):
    """A connected byte pipe."""

    @property
    def name(self) -> str:
        """Where it leads, in words for people."""
        ...

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user; once. What has arrived already is delivered from now on."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes. On a pipe that is lost or closed they vanish."""
        ...

    def pause_reading(self) -> None:
        """Deliver nothing for now. Pausing twice is pausing once."""
        ...

    def resume_reading(self) -> None:
        """Deliver again."""
        ...

    def close(self) -> None:
        """Deliver what was written, then end."""
        ...

    def abort(self) -> None:
        """End now."""
        ...


#: Makes a connection. Raises `OSError`, or a `UserError` that says what a person can do.
Dial = Callable[[], Awaitable[Pipe]]


class Arrival(NamedTuple):
    """Somebody who has come to a listener.

    Attributes:
        pipe: to whoever has come.
        principal: who that is, as this computer has proved it.
        name: likewise, in words for people.
        refusal: why it must not come in; empty when it may.
        greeted: is told the name and version of its program, once it has said hello.
    """

    pipe: Pipe
    principal: Principal
    name: str
    refusal: str = ""
    greeted: Callable[[str], None] = lambda software: None


class Listener(Interface):
    """An address at which this process listens."""

    @property
    def name(self) -> str:
        """The address, as a person writes it after ``--listen``."""
        ...

    @property
    def socket(self) -> Socket:
        """What listens; another process of the same account can take who comes there (`Address.listener`)."""
        ...

    async def run(self, take: Callable[[Arrival], None], shortage: Callable[[], None]) -> NoReturn:
        """Take all who come, until cancelled.

        Args:
            take: gets each one.
            shortage: called when this process has no descriptors left, to give some back.
        """
        ...


class Address(ABC):
    """Where a transport leads; to be derived as a frozen dataclass.

    Attributes:
        FORM: how people write it, for ``--help`` and errors.
        LISTEN_FORM: how they write it after ``--listen``; empty where nobody can listen.
        GREETING: s until a host that took the connection must have said hello.
    """

    __slots__ = ()
    FORM: ClassVar[str]
    GREETING: ClassVar[float] = 5.0
    LISTEN_FORM: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def parse(cls, rest: str, text: str) -> Self:
        """The address that ``text`` spells.

        Args:
            rest: what follows the scheme and its colon.
            text: the whole, for errors.

        Raises:
            AddressSyntaxError: it spells none.
        """

    @classmethod
    def parse_listening(cls, rest: str, text: str) -> Self:
        """Likewise, for the address to listen at, where that is written in another way."""
        return cls.parse(rest, text)

    @abstractmethod
    def __str__(self) -> str:
        """The URL; `parse` gives the address back."""

    @property
    def listening_name(self) -> str:
        """The address as a person writes it after ``--listen``: the name of its listener."""
        return str(self)

    @abstractmethod
    async def dial(self) -> Pipe:
        """Connect; raises `TransportError`, with what a person can do."""

    def listen(self, access: Access) -> AbstractContextManager[Listener]:
        """Listen for the block.

        Args:
            access: who may connect, where that is decided by a file's access rights.

        Raises:
            UserError: that cannot be, with what a person can do.
        """
        raise NotImplementedError(f"nobody can listen at {self}")

    def listener(self, listening: Socket) -> Listener:
        """Take who comes to a socket that listens at this address already; it stays the caller's to close."""
        raise NotImplementedError(f"nobody can listen at {self}")

    def proof(self) -> object:
        """What this computer proves itself with when it dials: another value when that is another one."""
        return None

    def who(self) -> str:
        """Who is at the other end, in words for people, as far as that can be seen from here."""
        return f"who listens at {self}"

    @property
    def how_to_come_in(self) -> str:
        """What somebody can do whom the host does not let in, for people."""
        return ASK_STATUS

    def silent(self) -> TransportError:
        """What to tell people of somebody who is there and says nothing."""
        return NoHostError(
            f"{self.who()} does not say hello", "it must be `cardferry host --listen`; if it is, start it anew"
        )

    async def stranger(self) -> TransportError | None:
        """What to tell people of somebody who is there and does not speak our protocol; None for nothing special."""
        return None
