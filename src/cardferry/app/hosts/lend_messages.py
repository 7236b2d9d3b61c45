"""What the agent and those who lend its readers say to each other; `cardferry.app.runtime.conversation` carries it.

1. `Lend` comes first. The agent opens the readers and answers `Lent`, or `NotLent`.
2. `ProgramSocket`, `GuestPipe` and `GuestSocket` bring a descriptor along. Of a pipe that is lost the agent says so.
3. `Ask` is answered with `Described`. Log lines come as `Line` when there is something to say.
4. `AskPerson` is answered with `PersonSaid`, by who runs on a terminal.
5. `End` ends what was lent; when all is given back, the agent closes the connection. So does whoever just goes.
"""

from __future__ import annotations

import msgspec

from cardferry.app.runtime.request import Request
from cardferry.app.runtime.status_socket import TroubleStatus
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.caller import PrincipalKind


class Lend(msgspec.Struct, frozen=True, tag=True):
    """What shall be lent.

    Attributes:
        request: which readers, and how.
        who: who asks, for people.
        level: of the log lines that shall be passed on, as `logging` counts.
        leads: it is a `cardferry host` that was started by hand, and decides for everybody from now on.
        tells: who asks tells people by itself what keeps readers away, and who waits long.
        terminal: who asks runs on a terminal, where its person can be asked.
    """

    request: Request
    who: str
    level: int
    leads: bool = False
    tells: bool = False
    terminal: bool = False


class ProgramSocket(msgspec.Struct, frozen=True, tag=True):
    """A listening socket at which programs come in; with its descriptor.

    Attributes:
        path: where it is.
        principal: kind and name of who they all are, where the kernel cannot tell (they come through ssh).
    """

    path: str
    principal: tuple[PrincipalKind, str] | None = None


class GuestPipe(msgspec.Struct, frozen=True, tag=True):
    """The end of a pipe at whose other end a guest is; with its descriptor.

    Attributes:
        number: of this pipe, for `Gone`.
        principal: kind and name of who that is.
        name: what to call it.
    """

    number: int
    principal: tuple[PrincipalKind, str]
    name: str


class GuestSocket(msgspec.Struct, frozen=True, tag=True):
    """A listening socket at which guests come in; with its descriptor.

    Attributes:
        address: as it is written after ``--listen``.
    """

    address: str


class Recheck(msgspec.Struct, frozen=True, tag=True):
    """Guests were removed: cut off those who may not be here any more. The first and only word of who says it."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """How is it going?"""


class End(msgspec.Struct, frozen=True, tag=True):
    """That is all, thank you."""


class Lent(msgspec.Struct, frozen=True, tag=True):
    """The readers are there.

    Attributes:
        agent: process id of the agent.
        rules: what the rules in force are, in a line; empty where there are none.
        moves: nothing is lent to whoever wanted to lead: the agent leaves, and its place is free soon.
        listens: addresses at which the agent takes guests itself; who leads need not.
    """

    agent: int
    rules: str = ""
    moves: bool = False
    listens: list[str] = []


class NotLent(msgspec.Struct, frozen=True, tag=True):
    """They are not.

    Attributes:
        error, hint, code: what is wrong, what a person can do, and the exit code for that.
        heals: whether trying again later can help.
    """

    error: str
    hint: str
    code: int
    heals: bool


class Gone(msgspec.Struct, frozen=True, tag=True):
    """The pipe of that number is lost."""

    number: int


class Listens(msgspec.Struct, frozen=True, tag=True):
    """Programs are served at the socket with that path from now on."""

    path: str


class Line(msgspec.Struct, frozen=True, tag=True):
    """A log line: level and logger as `logging` knows them."""

    level: int
    logger: str
    text: str


class Described(msgspec.Struct, frozen=True, tag=True):
    """How it is going.

    Attributes:
        state: of the readers: ``up``, or why they cannot be reached.
        contexts: how many PC/SC contexts programs have open through what was lent.
        readers: those that are offered, and who uses them, whoever that came through.
        guests: who comes through pipes.
        troubles: what keeps readers away.
        remembered: bytes of what the cards have said before, see `cardferry.link.Memories`.
        asks: see `Running`.
    """

    state: str
    contexts: int
    readers: list[SlotStatus]
    guests: list[HostSessionStatus]
    troubles: list[TroubleStatus] = []
    remembered: int = 0
    asks: list[str] = []


class AskPerson(msgspec.Struct, frozen=True, tag=True):
    """Ask the person at the terminal; see `cardferry.policy.pin.person.Question`.

    Attributes:
        number: of this question, for `PersonSaid`.
    """

    number: int
    text: str
    prompt: str
    lasting: bool
    patience: float


class PersonSaid(msgspec.Struct, frozen=True, tag=True):
    """What the person has said; see `cardferry.policy.pin.person.Said`.

    Attributes:
        asked: whether anybody was asked.
    """

    number: int
    asked: bool
    yes: bool = False
    pin: str | None = None
    cancelled: bool = False
    lasting: bool = False

    def __repr__(self) -> str:
        """Without the PIN."""
        return f"PersonSaid(number={self.number}, asked={self.asked}, yes={self.yes})"


ToAgent = Lend | ProgramSocket | GuestPipe | GuestSocket | Recheck | Ask | End | PersonSaid
FromAgent = Lent | NotLent | Gone | Listens | Line | Described | AskPerson
