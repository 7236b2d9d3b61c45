"""A host with a PIV card behind its guard, and principals that use it.

async with GuardedHost(rules) as host:
    alice = await host.principal("ssh:alice")
    assert await alice.send(VERIFY) == OK
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from cardferry.cards.piv import PivCard
from cardferry.link import Memories
from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.interface import Card
from cardferry.pcsc.virtual_card import VirtualCard
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard import Cards, HostGuard, guards
from cardferry.policy.guarded import Guarded
from cardferry.policy.rulebook import Rulebook
from cardferry.readers.virtual import VirtualReaderSource

READER = "Virtual 00 00"
ACCOUNT = "owner"
OK, DENIED = b"\x90\x00", b"\x69\x82"
SELECT = bytes.fromhex("00A4040005A00000030800")
ASK = bytes.fromhex("00200080")
SIGN = bytes.fromhex("0087119A267C248200812" + "0" + "11" * 32 + "00")
SIGN_9C = bytes.fromhex("0087119C267C248200812" + "0" + "11" * 32 + "00")
READ = bytes.fromhex("00CB3FFF055C035FC10500")


def verify(pin: str = "123456") -> bytes:
    return bytes.fromhex("0020008008") + pin.encode().ljust(8, b"\xff")


class Recorder:
    """A card, and what has reached it."""

    def __init__(self, card: VirtualCard) -> None:
        self.card = card
        self.seen: list[bytes] = []
        self.resets = 0

    @property
    def atr(self) -> bytes:
        return self.card.atr

    def power_on(self) -> bytes:
        return self.card.power_on()

    def power_off(self) -> None:
        self.card.power_off()

    def reset(self) -> bytes:
        self.resets += 1
        return self.card.reset()

    def process(self, apdu: bytes) -> bytes:
        self.seen.append(apdu)
        return self.card.process(apdu)

    def slow(self, apdu: bytes) -> bool:
        return False


class User:
    """A program of some principal, connected to the card."""

    def __init__(self, card: Card) -> None:
        self.card = card

    async def send(self, apdu: bytes) -> bytes:
        return await self.card.transmit(apdu, Protocol.T1)

    async def __aenter__(self) -> Self:
        await self.card.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.card.end(Disposition.LEAVE)


class GuardedHost:
    def __init__(
        self,
        rules: str = "",
        card: VirtualCard | None = None,
        folder: Path | None = None,
        audit: AuditLog | None = None,
        stay: float = 0.01,
    ) -> None:
        self.path = folder / "config.toml" if folder is not None else None
        if self.path is not None:
            self.path.write_text(rules)
        self.card = Recorder(card or PivCard.personalised())
        self.source = VirtualReaderSource()
        self.guard = HostGuard(Rulebook(lambda: self.path, ACCOUNT), audit)
        self.memories = Memories()
        self.manager = LocalManager([self.source], Settings(stay=stay), watch=self.memories.watch)

    async def __aenter__(self) -> Self:
        await self.manager.__aenter__()
        self.cards = Cards(self.guard)
        self.manager.guarded_by(guards(self.guard, self.cards))
        self.reader = self.source.add_reader(READER)
        self.reader.insert(self.card)
        self.offered = Guarded(self.manager, self.guard, self.cards)
        await self.manager.changed(self.manager.snapshot.serial)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.manager.__aexit__(kind, error, trace)
        self.guard.write()

    async def principal(self, name: str) -> User:
        """Connect on behalf of a principal, written as rules write it."""
        kind, _, rest = name.partition(":")
        caller = Caller(Principal(PrincipalKind(kind), rest), Program("a test", 1), session=1)
        context = await self.offered.open(caller, 1.0)
        return User(await context.connect(READER, ShareMode.SHARED, Protocol.T1))
