"""What may stand between the queue and a reader: a guard, which sees each command when its turn has come.

So it sees the commands of all principals in the order in which the card gets them, knows whose each one is, and can
put something of its own in front of one while nobody else has the card. What it decides by is not this room's matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn
from typing import Protocol as Interface

from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.reply import Reply


class GuardedReader(Interface):
    """A reader as its guard uses it. Only inside a call that the guard was given."""

    @property
    def name(self) -> str:
        """The reader's name."""
        ...

    @property
    def atr(self) -> bytes:
        """The card's answer to reset, empty without one."""
        ...

    @property
    def protocol(self) -> Protocol:
        """The protocol in force for the card, `Protocol.UNDEFINED` while there is none."""
        ...

    def send(self, principal: Principal, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """As `cardferry.readers.base.Reader.transmit`, for a principal."""
        ...

    async def send_control(self, code: int, data: bytes, max_response: int) -> bytes:
        """As `cardferry.readers.base.Reader.control`."""
        ...

    async def start_over(self) -> NoReturn:
        """Reset the card. Then raise ``W_RESET_CARD``: every handle that has used it must be told, the caller's, too.

        A caller that has not used it yet is not told: its command comes again.

        Raises:
            PcscError: ``W_RESET_CARD``; or the reader's own error when the card could not be reset.
        """
        ...


class CardGuard(Interface):
    """The guard of one reader. Calls come one at a time."""

    def transmit(self, caller: Caller, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command, or answer it instead of the card.

        Raises:
            PcscError: as `GuardedReader.send` and `GuardedReader.start_over`.
        """
        ...

    async def control(self, caller: Caller, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code, or answer it instead of the reader. ``W_SECURITY_VIOLATION`` when it may not be sent."""
        ...

    async def set_attribute(self, caller: Caller, attribute: int) -> None:
        """``W_SECURITY_VIOLATION`` when an attribute may not be set."""
        ...

    def keeps(self, principal: Principal) -> bool:
        """Whether that principal has verified a PIN that another one's command would lock."""
        ...

    def interrupted(self) -> None:
        """Somebody who is in no queue of ours may have used the card."""
        ...

    def exchanged(self) -> None:
        """The card was taken out, or another one was put in; `forgotten` is called as well."""
        ...

    def forgotten(self) -> None:
        """The card has forgotten everything: it was reset, or taken out, or another one was put in."""
        ...


#: Makes the guard of a reader.
Guards = Callable[[GuardedReader], CardGuard]
