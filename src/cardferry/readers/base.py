"""What a reader is to the resource manager.

A `ReaderSource` finds readers and reports them, and the cards in them, to a `ReaderObserver` (the manager).
A `Reader` does what an IFD handler does (PC/SC part 3): power, transmit, control, attributes. The manager calls
one reader from one task at a time; different readers at the same time. Methods raise `PcscError` only. (The manager
survives others: it logs them as the bugs they are, and the application gets ``F_INTERNAL_ERROR``.)

A cancelled method leaves the reader in step: what was sent to the card is still executed, its answer is dropped, and
the next call comes after it. A cancelled `Reader.connect` may have connected, a cancelled `Reader.claim` may have
claimed: the manager calls `Reader.disconnect` or `Reader.release` then.

Claim, release and transmit return a `Reply`; see `cardferry.pcsc.interface`.
"""

from __future__ import annotations

from typing import Protocol as Interface

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply
from cardferry.pcsc.trouble import Trouble


class ExecutedError(PcscError):
    """``W_RESET_CARD`` of a command that the card has executed: the reset came behind it."""

    def __init__(self, detail: str) -> None:
        super().__init__(ReturnCode.W_RESET_CARD, detail)


class Reader(Interface):
    """One slot that can hold one card."""

    @property
    def name(self) -> str:
        """Unique within its source, at most 127 bytes in UTF-8."""
        ...

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """The first handle comes, or the card must be powered: power it and choose a protocol.

        May be called again while connected: after a new card was inserted, to get from `ShareMode.DIRECT` to
        `ShareMode.SHARED`, or after `disconnect`. A powered card keeps its session. `ShareMode.EXCLUSIVE` is never
        asked for, see `claim`. `ShareMode.DIRECT` needs no card and may return `Protocol.UNDEFINED`. `disconnect`
        follows in the end also when this fails, for it may fail half way.

        Raises:
            PcscError: ``E_NO_SMARTCARD``, ``W_UNRESPONSIVE_CARD``, ``E_PROTO_MISMATCH``, ``E_SHARING_VIOLATION`` when
                another user of the reader has it exclusively, ``E_READER_UNAVAILABLE``.
        """
        ...

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        """Reset the card (`Disposition.RESET` warm, `Disposition.UNPOWER` cold), return the protocol."""
        ...

    async def disconnect(self, disposition: Disposition) -> None:
        """The last handle has gone. The card may be powered off, whatever the disposition. Ends a claim."""
        ...

    def claim(self, *, alone: bool = False) -> Reply[bool]:
        """Somebody above holds the card from now on: keep other users of the reader away.

        May return before that is certain; the next call then waits, or carries the error. May take as long as other
        users like, and may be cancelled. Lasts until `release` or `disconnect`, or until the observer is told
        that the card or reader is removed; a reset, by whomever, does not end it.

        Args:
            alone: it is for an exclusive connection, which may last. Other users that come shall be refused at once
                rather than wait, if that can be had. The reader may be claimed already.

        Returns:
            whether nobody waits because of it, as far as is known. (Without ``alone`` False.)

        Raises:
            PcscError: the claim failed, and no `release` is due. ``W_RESET_CARD`` as for `transmit`.
        """
        ...

    def release(self) -> Reply[None]:
        """Nobody above holds the card any more. Without a claim, nothing happens."""
        ...

    def transmit(self, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command APDU, return the response as the card, or its driver, gave it: usually with a status word.

        Inside a claim this waits as long as another user of the reader keeps the card for itself. May be cancelled; the
        command is then executed all the same if it is on its way already.

        Raises:
            PcscError: ``E_SHARING_VIOLATION``, outside a claim only: another user of the reader has the card to itself
                for the moment, and the command was not executed; the manager claims the reader and repeats it. (So it
                is with `reset`, `control`, `attribute` and `set_attribute`, too.)
                ``W_RESET_CARD`` says that the card was reset: by another user of the reader since the last call, or by
                us because another user came into the middle of a claim. Every handle above must learn it that has
                used the card before. The reader is ready for the next command. This one was not executed, unless it is
                an `ExecutedError`. ``E_NO_SMARTCARD`` or ``W_REMOVED_CARD``: the card is gone.
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

    def reader_failed(self, reader: Reader) -> None:
        """The driver cannot reach the reader, nor a card in it, until `card_inserted` or `card_removed`."""
        ...

    def outsiders(self, reader: Reader, present: bool) -> None:
        """Others use the reader as well, or may have until now (then ``present``); or none do any more."""
        ...

    def looked(self, source: ReaderSource, trouble: Trouble | None) -> None:
        """A source has looked for its readers, and what keeps them away is another trouble than before, or none."""
        ...


class ReaderSource(Interface):
    """A place where readers are."""

    async def run(self, observer: ReaderObserver) -> None:
        """Report readers and cards until cancelled. Mends its own connections; raises only programming errors.

        After such an error it may be run again: everything is reported anew, to another observer.
        """
        ...
