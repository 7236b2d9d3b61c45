"""The state of a card, as far as it decides what reading commands answer; and what each command does to it. Pure.

A state is what was selected since the card was reset or an application was selected by name, and which PINs are
verified. ``docs/memory.md`` has the rules in words, `cardferry.pcsc.commands` the table of reading commands.

Sources: ISO 7816-4:2020, 7.3 (structures and references), 11.2 to 11.5; SP 800-73-4 part 2, 3.1.1 and 3.2.4; OpenPGP
card 3.4.1, 7.2.5 and 7.2.18.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import blake2b
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.applications import DONE, Application, Applications, asks_for_name
from cardferry.pcsc.commands import reads

_CHAINED: Final = 0x10
_VERIFY, _SET_ENVIRONMENT, _GET_CHALLENGE = 0x20, 0x22, 0x84
_SELECT, _SELECT_DATA, _GET_RESPONSE = 0xA4, 0xA5, 0xC0
_READ_BINARY, _READ_BINARY_ODD, _READ_RECORD = 0xB0, 0xB1, 0xB2
_PERFORM, _INTERNAL_AUTHENTICATE, _GENERAL_AUTHENTICATE = 0x2A, 0x88, 0x87
_GET_DATA: Final = frozenset({0xCA, 0xCB})
_MANAGEMENT_KEY: Final = 0x9B
#: The one command in another class than 00 that may only read: GlobalPlatform's GET DATA.
_OF_ANY_CLASS: Final = (0x80, 0xCA)
#: P1 of PERFORM SECURITY OPERATION where a key is used: signature, plain value, hash code.
_WITH_KEY: Final = frozenset({0x9E, 0x80, 0x90})
#: Instructions that only move a place in the card, when they are not absolute: "next record" and the like.
_MOVING: Final = frozenset({0xA0, 0xA1, 0xA2, 0xA4, 0xA5, 0xB0, 0xB1, 0xB2, 0xB3, 0xCA, 0xCB, 0xCC, 0xCD})
#: Instructions that write data and select nothing.
_WRITING: Final = frozenset({0x0C, 0x0E, 0x0F, 0xD0, 0xD1, 0xD2, 0xD6, 0xD7, 0xDA, 0xDB, 0xDC, 0xDD, 0xE2})
#: SW1 of refusals that say what is wrong with the command: nothing was done.
REFUSING: Final = frozenset({0x67, 0x68, 0x6A, 0x6B, 0x6D, 0x6E})
#: P1 of SELECT (ISO 7816-4, table 62).
_BY_IDENTIFIER, _BY_NAME, _FROM_MASTER_FILE = 0x00, 0x04, 0x08
_MASTER_FILE: Final = (b"", b"\x3f\x00")
_SHORT_IDENTIFIER, _CURRENT_ONLY = 0x80, 0x1F
#: P1 of VERIFY that takes the proof back (ISO 7816-4, 11.5.6).
_LOG_OUT: Final = 0xFF
#: What this is does not say which of several is selected.
_SEVERAL: Final = (Application.UNKNOWN, Application.CAC)
#: In place of PINs, with a number behind it: it is not certain whether one is verified.
UNSURE: Final = "?"
#: Where names of applications stand: nothing was selected since the reset; a file was, and it is not known after what.
RESET, FILES = b"reset", b"files"


class Effect(Enum):
    """What a command does, in as many kinds as the memory tells apart."""

    READS = auto()
    #: Leaves a place in the card that is not known.
    MOVES = auto()
    #: Nothing that any reading command would show.
    PASSES = auto()
    #: Proves a PIN, or takes the proof back.
    PROVES = auto()
    SETS_ENVIRONMENT = auto()
    USES_KEY = auto()
    #: Changes what the card holds, and nothing that is selected.
    WRITES = auto()
    #: Anything.
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class State:
    """What decides the answers of reading commands.

    Attributes:
        pins: PINs that are verified, each with the application that was selected; or `UNSURE` and a number.
        name: what was selected by name, or `RESET` or `FILES`; None when it is not known.
        file: the files that were selected since.
        element: what is current in there: a short file identifier, or a data object.
        environment: MANAGE SECURITY ENVIRONMENT commands that are in force.
    """

    pins: frozenset[str] = frozenset()
    name: bytes | None = None
    file: bytes = b""
    element: bytes = b""
    environment: frozenset[bytes] = frozenset()

    @property
    def level(self) -> State:
        """The same security status, and nothing known besides."""
        return State(self.pins)


def selects_by_name(apdu: bytes) -> bool:
    """Whether a command is answered by the security status alone, whatever is selected."""
    return apdu[:3] == b"\x00\xa4\x04"


def only_of(applications: Applications) -> Application:
    """The one application that is selected for certain, or UNKNOWN."""
    return next(iter(applications)) if len(applications) == 1 else Application.UNKNOWN


def says_what_is_selected(apdu: bytes) -> bool:
    """Whether `cardferry.pcsc.applications.selected_after` must be asked."""
    return apdu[1] == _SELECT or (apdu[1] in _GET_DATA and asks_for_name(CommandApdu.parse(apdu)))


def effect_of(apdu: bytes, state: State, application: Application, *, fetching: bool, chained: bool) -> Effect:
    """What a command does to a card.

    Args:
        apdu: the command.
        state: of the card.
        application: what is selected for certain.
        fetching: the command before it only read, and was answered ``61xx``.
        chained: pieces of a chain have come before.
    """
    if len(apdu) < 4:
        return Effect.UNKNOWN
    cla, ins = apdu[0], apdu[1]
    if cla & ~_CHAINED == 0 and _uses_key(apdu, application):
        return Effect.USES_KEY
    if chained or (cla and (cla, ins) != _OF_ANY_CLASS):
        return Effect.UNKNOWN
    if reads(apdu, application, fetching=fetching, environment=state.environment):
        return Effect.READS
    if cla:
        return Effect.UNKNOWN
    if ins == _VERIFY:
        return Effect.PROVES
    if ins == _SET_ENVIRONMENT:
        return Effect.SETS_ENVIRONMENT
    if ins in (_GET_CHALLENGE, _GET_RESPONSE):
        return Effect.PASSES
    if ins in _MOVING:
        return Effect.MOVES
    return Effect.WRITES if ins in _WRITING else Effect.UNKNOWN


def _uses_key(apdu: bytes, application: Application) -> bool:
    match apdu[1]:
        case 0x2A:
            return apdu[2] in _WITH_KEY
        case 0x88:
            return True
        case 0x87:
            return application is Application.PIV and apdu[3] != _MANAGEMENT_KEY
        case 0x42:
            return application is Application.CAC
    return False


def after_reading(state: State, apdu: bytes, response: bytes, applications: Applications) -> State:
    """The state after a command that only reads; the same object when it is the same.

    Args:
        state: before.
        apdu, response: the command and its answer.
        applications: what may be selected after it.
    """
    if response[-2] not in DONE:
        return _after_refusal(state, apdu, response)
    ins = apdu[1]
    if ins == _SELECT:
        return _after_select(state, CommandApdu.parse(apdu), applications)
    if state.name in (None, RESET) and (name := _name_of(applications)):
        return State(state.pins, name)  # the card has said what is selected: that is as good as having selected it
    if state.name is None:
        return state
    element = state.element
    if ins == _SELECT_DATA:
        element = _digest(apdu)
    elif ins == _READ_BINARY and apdu[2] & _SHORT_IDENTIFIER:
        element = apdu[2:3]
    elif ins == _READ_BINARY_ODD and apdu[2:4] != b"\0\0":
        element = apdu[2:4]
    elif ins == _READ_RECORD and 0 < apdu[3] >> 3 < _CURRENT_ONLY:
        element = bytes((apdu[3] >> 3,))
    return state if element == state.element else replace(state, element=element)


def _after_refusal(state: State, apdu: bytes, response: bytes) -> State:
    """A SELECT that finds nothing, or nothing that it could do, leaves what is selected.

    But what an applet answers to its own selection may be an error, too (Java Card Runtime Environment 3, 4.6).
    """
    refused = apdu[1] != _SELECT or apdu[2] != _BY_NAME or response[-2] in REFUSING
    return state if refused else state.level


def _after_select(state: State, command: CommandApdu, applications: Applications) -> State:
    absolute = command.p1 == _FROM_MASTER_FILE or (command.p1 == _BY_IDENTIFIER and command.data in _MASTER_FILE)
    if command.p1 == _BY_NAME:
        return State(state.pins, _name_of(applications) or _digest(command.data, command.p2))
    within = state.name or (FILES if absolute else None)
    if within is None:
        return state
    path = _digest(b"" if absolute else state.file, command.p1, command.p2, command.data)
    return State(state.pins, within, path, b"", state.environment)


def _name_of(applications: Applications) -> bytes:
    """The same name, however it was found out what is selected; empty where that is not certain."""
    only = only_of(applications)
    return b"" if only in _SEVERAL else only.value.encode()


def after_setting(state: State, apdu: bytes) -> State:
    """The state after a MANAGE SECURITY ENVIRONMENT that has succeeded: the last one of each kind is in force."""
    if state.name is None:
        return state
    others = frozenset(each for each in state.environment if each[2:4] != apdu[2:4])
    return replace(state, environment=others | {apdu})


def after_proof(state: State, apdu: bytes, *, success: bool) -> State:
    """The state after a VERIFY with a PIN, or one that takes the proof back."""
    if apdu[2] == _LOG_OUT:
        pins = state.pins - {pin for pin in state.pins if success and pin.startswith(f"{apdu[3]:02X}")}
    else:
        pin = f"{apdu[3]:02X} {(state.name or b'').hex()}"
        pins = state.pins | {pin} if success else state.pins - {pin}
    return state if pins == state.pins else replace(state, pins=pins)


def kind_of(apdu: bytes) -> bytes:
    """What kind of operation an acting command is: instruction and both parameters."""
    return apdu[1:4]


def _digest(*parts: bytes | int) -> bytes:
    digest = blake2b(digest_size=12)
    for part in parts:
        digest.update(bytes((part,)) if isinstance(part, int) else len(part).to_bytes(2, "big") + part)
    return digest.digest()
