"""What a reader is to the resource manager.

A `ReaderSource` finds readers and reports them, and the cards in them, to a `ReaderObserver` (the manager).
A `Reader` does what an IFD handler does (PC/SC part 3): power, transmit, control, attributes. The manager calls
one reader from one task at a time; different readers at the same time. Methods raise `PcscError` only.
"""

from __future__ import annotations

from typing import Protocol as Interface

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode


class Reader(Interface):
    """One slot that can hold one card."""

    @property
    def name(self) -> str:
        """Unique within its source, at most 127 bytes in UTF-8."""
        ...

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """The first handle comes, or the card must be powered: power it and choose a protocol.

        `ShareMode.DIRECT` needs no card and may return `Protocol.UNDEFINED`.
        """
        ...

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        """Reset the card (`Disposition.RESET` warm, `Disposition.UNPOWER` cold), return the protocol."""
        ...

    async def disconnect(self, disposition: Disposition) -> None:
        """The last handle has gone. The card may be powered off."""
        ...

    async def claim(self) -> None:
        """Somebody above holds the card from now on: keep other users of the reader away.

        May return before that is certain; the next `transmit` then carries the error.
        """
        ...

    async def release(self) -> None:
        """Nobody above holds the card any more."""
        ...

    async def transmit(self, apdu: bytes, protocol: Protocol) -> bytes:
        """Send a command APDU, return the response with its status word.

        ``W_RESET_CARD`` says that another user of the reader has reset the card since the last call: the command
        was not executed, and the reader is ready for the next one.
        """
        ...

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader itself."""
        ...

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        ...

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        ...


class ReaderObserver(Interface):
    """Whom a source tells what happens. Calls are plain functions, made from the event loop's thread."""

    def reader_added(self, reader: Reader) -> None:
        """A reader was plugged in. It is empty until `card_inserted`."""
        ...

    def reader_removed(self, reader: Reader) -> None:
        """A reader was unplugged, with its card."""
        ...

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        """A card was inserted; an empty ATR means that it does not answer."""
        ...

    def card_removed(self, reader: Reader) -> None:
        """The card was taken out."""
        ...


class ReaderSource(Interface):
    """A place where readers are."""

    async def run(self, observer: ReaderObserver) -> None:
        """Report readers and cards until cancelled. Mends its own connections; raises only programming errors."""
        ...
