"""What is unlocked in a card: what its next user could do without giving a PIN.

Security status belongs to the card, not to who has earned it (ISO 7816-4:2020, 9.1). So it is remembered which PINs
have been verified since the card has lost its status, and whether anything else may have been: administration keys,
secure messaging, commands that are not known.

PIV and OpenPGP cards lock a PIN again on VERIFY with P1 = FF (SP 800-73-4 part 2, 3.2.1; OpenPGP card 3.4.1, 7.2.2),
and say on VERIFY without data whether it is locked. For everything else only a reset is sure.
"""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.applications import DONE, Application, Applications
from cardferry.policy.operations import Action, Operation

_LOCKABLE: Final = frozenset({Application.PIV, Application.OPENPGP})
#: What changes no security status, or takes it away.
_HARMLESS: Final = frozenset(
    {Operation.READ, Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE, Operation.WRITE, Operation.GENERATE}
)
_SUCCESS: Final = b"\x90\x00"
_VERIFICATION_FAILED: Final = 0x63
_LOG_OUT: Final = 0xFF
_VERIFY: Final = 0x20


class Unlocked:
    """Follows one card."""

    def __init__(self) -> None:
        self._references: set[tuple[Application, int]] = set()
        self._unclear = False
        self._verified = False

    @property
    def verified(self) -> bool:
        """Whether a PIN was given that its giver may still need."""
        return self._verified and not self.nothing

    @property
    def nothing(self) -> bool:
        """Whether the card gives its next user nothing that must be earned."""
        return not self._references and not self._unclear

    def forget(self) -> None:
        """The card was reset."""
        self._references.clear()
        self._unclear = self._verified = False

    def doubt(self) -> None:
        """It is not known what has been unlocked."""
        self._unclear = True

    def answered(self, action: Action, response: bytes) -> None:
        """A command was sent, and the card has answered this."""
        if action.operation in _HARMLESS or not action.complete or response[-2] not in DONE:
            return
        if action.operation is not Operation.VERIFY:
            self._unclear = self._unclear or response[-2] != _VERIFICATION_FAILED
            return
        self._verified = self._verified or response == _SUCCESS
        command = action.command
        known = action.applications & _LOCKABLE if len(action.applications) == 1 else None
        if not known or command is None or command.cla != 0 or command.ins != _VERIFY:
            self._unclear = self._unclear or response[-2] != _VERIFICATION_FAILED
            return
        reference = next(iter(known)), command.p2
        if response == _SUCCESS and command.p1 == _LOG_OUT and not command.data:
            self._references.discard(reference)
        elif response[-2] != _VERIFICATION_FAILED:
            self._references.add(reference)

    def lockable(self, applications: Applications) -> list[int] | None:
        """The references of the PINs that can be locked one by one, as long as these may be selected; None: reset."""
        if self._unclear or any({application} != applications for application, _ in self._references):
            return None
        return sorted(reference for _, reference in self._references)


def lock(reference: int) -> bytes:
    """The command that locks a PIN again."""
    return bytes((0x00, _VERIFY, _LOG_OUT, reference))


def ask(reference: int, channel_class: int = 0x00) -> bytes:
    """The command that asks how many tries a PIN has, which says whether it is locked."""
    return bytes((channel_class, _VERIFY, 0x00, reference))


def is_locked(response: bytes) -> bool:
    """Whether the answer to that says so."""
    return len(response) == 2 and (response[0] == _VERIFICATION_FAILED or response == b"\x69\x83")
