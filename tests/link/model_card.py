"""A small card whose whole state can be copied, and a witness of what each program has really been answered."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reply import Reply
from tests.link.cards import CountingCard

APPLICATIONS = (bytes.fromhex("A000000308"), bytes.fromhex("D27600012401"), bytes.fromhex("F000000001"))
#: Data objects: three that can be written, one that needs the PIN, one that counts signatures, one that changes by
#: itself, one that comes in two pieces.
WRITABLE, PROTECTED, COUNTER, CLOCK, LONG = (1, 2, 3), 4, 5, 6, 7
OBJECTS = (*WRITABLE, PROTECTED, COUNTER, CLOCK, LONG)
PIN = b"1234"
DONE, DENIED, NOT_FOUND, NOTHING = b"\x90\0", b"\x69\x82", b"\x6a\x82", b"\x6a\x88"


def select(number: int) -> bytes:
    name = APPLICATIONS[number] if number < len(APPLICATIONS) else b"nobody"
    return bytes((0, 0xA4, 4, 0, len(name))) + name


def get(number: int) -> bytes:
    return bytes((0, 0xCA, 0, number, 0))


def put(number: int, value: int) -> bytes:
    return bytes((0, 0xDA, 0, number, 1, value))


GET_REST = bytes((0, 0xC0, 0, 0, 0))
TRIES = bytes((0, 0x20, 0, 0x80))
VERIFY = TRIES + bytes((len(PIN),)) + PIN
WRONG_PIN = TRIES + b"\x01x"
LOG_OUT = bytes((0, 0x20, 0xFF, 0x80))
SIGN = bytes((0, 0x88, 0, 0, 1, 0, 0))
UNHEARD_OF = bytes((0x80, 0x55, 0, 0))
#: What these commands do cannot be undone.
ACTING = (0x88, 0xDA, 0x55)


def acts(apdu: bytes) -> bool:
    return apdu[1] in ACTING or (apdu[1] == 0x20 and (len(apdu) > 4 or apdu[2] != 0))


class ModelCard(CountingCard):
    """See the module.

    Attributes:
        history: every command and reset, its answer, and the card after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.selected: int | None = None
        self.verified = False
        self.tries = 3
        self.signatures = self.clock = 0
        self.objects = dict.fromkeys(WRITABLE, 0)
        self.rest = b""
        self.history: list[tuple[bytes, bytes, ModelCard]] = []

    def copied(self) -> ModelCard:
        other = copy(self)
        other.objects = dict(self.objects)
        other.history = []
        return other

    def reset(self) -> bytes:
        self.selected, self.verified, self.rest = None, False, b""
        self.history.append((b"", b"", self.copied()))
        return super().reset()

    def power_off(self) -> None:
        self.reset()

    def process(self, apdu: bytes) -> bytes:
        self.count += 1
        answer = self._answer(apdu)
        self.history.append((apdu, answer, self.copied()))
        return answer

    def _answer(self, apdu: bytes) -> bytes:
        rest, self.rest = self.rest, b""
        match apdu[1]:
            case 0xA4:
                if apdu[5:] not in APPLICATIONS:
                    return NOT_FOUND
                self.selected = APPLICATIONS.index(apdu[5:])
                return DONE
            case 0xCA:
                return self._get(apdu[3])
            case 0xC0:
                return rest + DONE if rest else b"\x69\x85"
            case 0x20:
                return self._verify(apdu)
            case 0x88 if self.verified:
                self.signatures += 1
                return bytes((self.signatures, *self.objects.values())) + DONE
            case 0xDA if apdu[3] in self.objects:
                self.objects[apdu[3]] = apdu[5]
                return DONE
            case 0x88:
                return DENIED
        return b"\x6d\0"

    def _get(self, number: int) -> bytes:
        if self.selected is None:
            return NOTHING
        self.clock += number == CLOCK
        value = {PROTECTED: 9, COUNTER: self.signatures, CLOCK: self.clock % 256, LONG: self.objects[1]} | self.objects
        if number == PROTECTED and not self.verified:
            return DENIED
        data = bytes((self.selected, number, value.get(number, 0)))
        if number != LONG:
            return data + DONE
        self.rest = data[1:]
        return data[:1] + b"\x61\x02"

    def _verify(self, apdu: bytes) -> bytes:
        if apdu[2]:
            self.verified = False
            return DONE
        if len(apdu) == 4:
            return DONE if self.verified else bytes((0x63, 0xC0 | self.tries))
        self.verified = apdu[5:] == PIN and self.tries > 0
        self.tries = 3 if self.verified else max(0, self.tries - 1)
        return DONE if self.verified else bytes((0x63, 0xC0 | self.tries))


@dataclass
class Life:
    """What one program was answered between two reconnects: the command, the answer, and where in the history."""

    answers: list[tuple[bytes, bytes, int]] = field(default_factory=list)


class Witness:
    """A resource manager that notes, for each program, what was really carried out for it."""

    def __init__(self, manager: ResourceManager, card: ModelCard) -> None:
        self.lives: dict[str, list[Life]] = {}
        self._manager = manager
        self._card = card
        self.changed = manager.changed

    @property
    def snapshot(self) -> Any:
        return self._manager.snapshot

    def seen_by(self, principal: Principal) -> Witness:
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        return self._manager.may_read(reader, applications, apdu)

    async def open(self, caller: Caller, patience: float | None = None) -> Any:
        return _WitnessContext(self, await self._manager.open(caller, patience), caller.program.name)

    def saw(self, program: str, apdu: bytes, reply: Reply[bytes]) -> None:
        if reply.error is None:
            lives = self.lives.setdefault(program, [Life()])
            lives[-1].answers.append((apdu, reply.result(), len(self._card.history)))


class _WitnessContext:
    def __init__(self, witness: Witness, context: Context, program: str) -> None:
        self._witness, self._context, self._program = witness, context, program
        self.close = context.close

    async def connect(self, *args: Any) -> Any:
        return _WitnessCard(self._witness, await self._context.connect(*args), self._program)


class _WitnessCard:
    def __init__(self, witness: Witness, card: Card, program: str) -> None:
        self._witness, self._card, self._program = witness, card, program

    def __getattr__(self, name: str) -> Any:
        return getattr(self._card, name)

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        return self._card.transmit(apdu, protocol).then(partial(self._witness.saw, self._program, apdu))

    async def reconnect(self, *args: Any) -> Any:
        self._witness.lives.setdefault(self._program, [Life()]).append(Life())
        return await self._card.reconnect(*args)
