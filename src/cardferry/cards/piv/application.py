"""What a PIV application remembers: for ever (`Contents`), and until the next reset (`Session`).

The instructions (`pin_instructions`, `data_instructions`, `key_instructions`, `yubico_instructions`) are functions
of an `Application` and a command; `card` calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from cardferry.cards.piv.keys import PinPolicy, Slot, SlotKey
from cardferry.cards.piv.management_key import Administration, ManagementKey, Randomness
from cardferry.cards.piv.objects import ObjectStore
from cardferry.cards.piv.reference_data import ReferenceData, pad
from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import CommandApdu, StatusWord

#: What a new card's PIN and PUK are.
DEFAULT_PIN: Final = pad("123456")
DEFAULT_PUK: Final = pad("12345678")

#: The version that Yubico's GET VERSION answers: the first with AES management keys and GET METADATA, and before
#: those versions that promise RSA-4096 and Curve25519.
VERSION: Final = (5, 4, 3)


@dataclass(slots=True)
class Contents:
    """Everything that survives a reset. ``repr`` shows no secret.

    Attributes:
        serial: 0 to 2**32 - 1, what Yubico's GET SERIAL answers.
        guid: identifies the card (CHUID).
    """

    serial: int
    guid: UUID
    pin: ReferenceData = field(default_factory=lambda: ReferenceData(DEFAULT_PIN))
    puk: ReferenceData = field(default_factory=lambda: ReferenceData(DEFAULT_PUK))
    management_key: ManagementKey = field(default_factory=ManagementKey)
    keys: dict[Slot, SlotKey] = field(default_factory=dict)
    objects: ObjectStore = field(default_factory=ObjectStore)

    def __post_init__(self) -> None:
        if not 0 <= self.serial < 2**32:
            raise ValueError(f"a serial number has 32 bits, {self.serial} does not")


class Session:
    """Security status since the last reset.

    Attributes:
        administration: whether the management key was proven.
        pin_verified: whether the PIN was.
        pin_immediately_before: whether the previous command was its successful verification.
    """

    def __init__(self, random: Randomness) -> None:
        self.administration = Administration(random)
        self.pin_verified = False
        self.pin_immediately_before = False
        self._verified_now = False

    def next_command(self) -> None:
        """A new command begins."""
        self.pin_immediately_before, self._verified_now = self._verified_now, False

    def pin_was_verified(self) -> None:
        """The PIN has just been verified."""
        self.pin_verified = self._verified_now = True

    def forget_pin(self) -> None:
        """The PIN counts as not verified any more."""
        self.pin_verified = self.pin_immediately_before = self._verified_now = False


@dataclass(slots=True)
class Application:
    """A PIV application at work.

    Attributes:
        random: source of challenges.
        revision: grows with everything that changes `contents`; a card is worth saving when it has grown.
    """

    contents: Contents
    random: Randomness
    session: Session = field(init=False)
    revision: int = 0

    def __post_init__(self) -> None:
        self.session = Session(self.random)

    def reset(self) -> None:
        """Power went away, or came back: forget the session."""
        self.session = Session(self.random)

    def changed(self) -> None:
        """The contents have changed."""
        self.revision += 1

    def require_administrator(self) -> None:
        """Raise ``6982`` unless the management key was proven."""
        if not self.session.administration.authenticated:
            raise StatusError(StatusWord.SECURITY_STATUS_NOT_SATISFIED, "management key needed")

    def require_pin(self, policy: PinPolicy = PinPolicy.ONCE) -> None:
        """Raise ``6982`` unless the PIN was verified as the policy wants it."""
        satisfied = {
            PinPolicy.NEVER: True,
            PinPolicy.ONCE: self.session.pin_verified,
            PinPolicy.ALWAYS: self.session.pin_immediately_before,
        }
        if not satisfied[policy]:
            raise StatusError(StatusWord.SECURITY_STATUS_NOT_SATISFIED, "PIN needed")


#: An instruction: response data, or `StatusError`. `TlvError` and `KeyInputError` count as wrong data (``6A80``).
Instruction = Callable[[Application, CommandApdu], bytes]


def require_parameters(command: CommandApdu, p1: int, p2: int) -> None:
    """Raise ``6A86`` unless P1 and P2 are these."""
    if (command.p1, command.p2) != (p1, p2):
        raise StatusError(StatusWord.INCORRECT_P1_P2)
