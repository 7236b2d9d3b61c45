"""PIN tries: which commands use one up when the PIN is wrong, and how many are left.

A card is asked before the command, where it can say: PIV by VERIFY without data (SP 800-73-4 part 2, 3.2.1), of its
PUK a YubiKey by GET METADATA, OpenPGP by its PW status bytes (OpenPGP card 3.4.1, 4.4.1, C4). Otherwise wrong PINs are
counted here, and three tries are supposed, as most cards have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.applications import Application
from cardferry.pcsc.tlv import parse_leading
from cardferry.policy.guard.unlocked import ask
from cardferry.policy.operations import Action, Operation

#: VERIFY, CHANGE REFERENCE DATA, DISABLE and ENABLE VERIFICATION REQUIREMENT, RESET RETRY COUNTER (ISO 7816-4, 11.5).
_TAKING: Final = frozenset({0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D})
_RESET_RETRY_COUNTER: Final = frozenset({0x2C, 0x2D})
_PIV_PUK: Final = 0x81
#: RESET RETRY COUNTER of an OpenPGP card: P1 = 2 is the administrator's, who has verified his PIN before.
_BY_ADMINISTRATOR: Final = 0x02
#: Where the PW status bytes have the tries: of the user's PIN, the resetting code, the administrator's PIN.
_PW_STATUS: Final = {0x81: 4, 0x82: 4, 0x83: 6}
_RESETTING_CODE: Final = 5
_PW_STATUS_COMMAND: Final = bytes.fromhex("00CA00C400")
_TAG_TRIES: Final = 0x06
#: How many tries a PIN is supposed to have where the card does not say.
SUPPOSED: Final = 3
_WRONG: Final = 0x63
_VERIFY, _LOG_OUT = 0x20, 0xFF
#: The administrator's PIN of an OpenPGP card.
_PW3: Final = 0x83


@dataclass(frozen=True, slots=True)
class Try:
    """A command that uses up a try when the PIN is wrong.

    Attributes:
        reference: whose try it is, as a key for counting.
        question: the command that asks how many are left; empty where there is none.
        at: where the answer to it says so, of an OpenPGP card's.
    """

    reference: str
    question: bytes = b""
    at: int | None = None

    def left(self, response: bytes) -> int | None:
        """How many tries the answer to the question says are left; None when it does not."""
        if self.at is not None:
            known = response[:-2] if response[-2:] == b"\x90\x00" else b""
            return known[self.at] if len(known) > self.at else None
        if response[-2:] == b"\x69\x83":
            return 0
        if len(response) == 2 and response[0] == _WRONG and response[1] & 0xF0 == 0xC0:
            return response[1] & 0x0F
        for each in parse_leading(response[:-2]):
            if each.tag == _TAG_TRIES and len(each.value) == 2:
                return each.value[1]
        return None


def try_of(action: Action, apdu: bytes) -> Try | None:
    """The try that a command uses up if it carries a wrong PIN; None when it uses up none.

    A command of which it is not known what it does counts when its instruction is one of these: secure messaging hides
    the rest.
    """
    if not action.complete:
        return None
    command = action.command
    if action.operation is Operation.OTHER or command is None:
        hidden = len(apdu) > 4 and apdu[1] in _TAKING
        return Try(f"{apdu[3]:02X}") if hidden else None
    if (
        command.ins not in _TAKING
        or not command.data
        or action.operation
        not in (
            Operation.VERIFY,
            Operation.MANAGE_PIN,
        )
    ):
        return None
    if action.applications == {Application.OPENPGP}:
        return _openpgp(command)
    piv = action.applications == {Application.PIV}
    if command.ins in _RESET_RETRY_COUNTER:
        return _puk(_PIV_PUK) if piv else Try(f"{command.p2:02X} unblocking")
    if piv and command.p2 == _PIV_PUK:
        return _puk(_PIV_PUK)
    return Try(f"{command.p2:02X}", ask(command.p2, command.cla))


def carries_user_pin(action: Action) -> bool:
    """Whether a command, or a piece of one, carries the PIN of the card's user: to verify it, or to change it."""
    command = action.command
    if command is None or action.operation not in (Operation.VERIFY, Operation.MANAGE_PIN):
        return False
    administrator = action.applications == {Application.OPENPGP} and command.p2 == _PW3
    return command.ins in _TAKING - _RESET_RETRY_COUNTER and not administrator and not takes_back(action)


def takes_back(action: Action) -> bool:
    """Whether it locks again what a PIN has unlocked, and does nothing else (VERIFY with P1 = FF, without data)."""
    command = action.command
    known = len(action.applications) == 1 and action.applications <= {Application.PIV, Application.OPENPGP}
    return (
        known and command is not None and command.ins == _VERIFY and command.p1 == _LOG_OUT
        and command.cla == 0 and not command.data and action.complete
    )  # fmt: skip


def _puk(reference: int) -> Try:
    return Try(f"{reference:02X}", bytes((0x00, 0xF7, 0x00, reference, 0x00)))


def _openpgp(command: CommandApdu) -> Try | None:
    if command.ins in _RESET_RETRY_COUNTER:
        if command.p1 == _BY_ADMINISTRATOR:
            return None
        return Try("resetting code", _PW_STATUS_COMMAND, _RESETTING_CODE)
    at = _PW_STATUS.get(command.p2)
    name = "81" if command.p2 == 0x82 else f"{command.p2:02X}"
    return Try(name) if at is None else Try(name, _PW_STATUS_COMMAND, at)


def was_wrong(response: bytes) -> bool:
    """Whether the card says that the PIN was wrong."""
    return len(response) == 2 and response[0] == _WRONG
