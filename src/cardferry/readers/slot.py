"""A reader of our own making: what all readers share whose cards are not behind somebody else's driver.

`SlotReader` is to a `CardPort` what an IFD handler is to a card (PC/SC part 3): it powers the card, chooses the
protocol from the answer to reset, and answers for attributes and control codes. `SlotSource` holds such readers and
reports what happens to them; subclasses bring the cards.

A transmit goes `SlotReader.transmit` -> `CardPort.exchange`, both in the caller's task.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Final
from typing import Protocol as Interface

from cardferry.pcsc.atr import Atr, AtrError
from cardferry.pcsc.constants import (
    GET_FEATURE_REQUEST,
    MAX_APDU_SIZE,
    MAX_READERNAME,
    Attribute,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_name import encode_reader_name
from cardferry.pcsc.reply import DONE, Reply, answered, replying
from cardferry.readers.base import ReaderObserver

log = logging.getLogger(__name__)

_VENDOR_NAME: Final = b"cardferry\0"
_DWORD: Final = struct.Struct("=I")
#: Data channel type of a vendor-defined interface (PC/SC part 3, 3.1.1, ``SCARD_ATTR_CHANNEL_ID``).
_VENDOR_CHANNEL: Final = 0x00F0_0000
_VERSION: Final = 0x0100_0000
#: ``SCARD_ATTR_ICC_PRESENCE`` and ``SCARD_ATTR_ICC_TYPE_PER_ATR`` (PC/SC part 3, 3.1.1).
_PRESENT: Final = b"\x02"
_ABSENT: Final = b"\x00"
_ISO_7816_ASYNCHRONOUS: Final = b"\x01"


class CardPort(Interface):
    """A card in a slot, whatever it is made of. One method is called at a time; all raise `PcscError` only."""

    async def power_on(self) -> bytes:
        """Power the card, or reset it cold if it has power; return the ATR."""
        ...

    async def reset(self) -> bytes:
        """Reset the card warm; return the ATR."""
        ...

    async def power_off(self) -> None:
        """Take the power away."""
        ...

    async def exchange(self, apdu: bytes) -> bytes:
        """Command APDU in, response APDU out. ``E_NO_SMARTCARD`` when the card goes meanwhile."""
        ...


def negotiate(atr: bytes, wanted: Protocol) -> Protocol:
    """Choose the protocol: T=1 when the card offers it and it is wanted, else T=0, as pcscd does (``prothandler.c``).

    Raises:
        PcscError: ``E_PROTO_MISMATCH`` when nothing fits, ``W_UNRESPONSIVE_CARD`` when the ATR is none.
    """
    try:
        parsed = Atr.parse(atr)
    except AtrError as error:
        raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD, str(error)) from error
    offered = parsed.protocols if parsed.specific is None else parsed.specific
    for protocol in (Protocol.T1, Protocol.T0):
        if protocol & offered & wanted:
            return protocol
    if wanted & Protocol.RAW:
        return Protocol.RAW
    raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"the card offers {offered!r}, {wanted!r} is wanted")


class SlotReader:
    """A reader with one slot.

    Args:
        name: unique within its source, at most 127 bytes in UTF-8.
        channel: shown in ``SCARD_ATTR_CHANNEL_ID``, 0 to 65535.
    """

    def __init__(self, name: str, channel: int = 0) -> None:
        if not 0 < len(encode_reader_name(name)) < MAX_READERNAME:
            raise ValueError(f"a reader's name has 1 to {MAX_READERNAME - 1} bytes: {name!r}")
        self._name = name
        self._channel = channel
        self._port: CardPort | None = None
        self._atr = b""
        self._powered = False
        self._protocol = Protocol.UNDEFINED

    @property
    def name(self) -> str:
        """The reader's name."""
        return self._name

    @property
    def atr(self) -> bytes:
        """The ATR of the card in the slot, empty without one."""
        return self._atr

    @property
    def occupied(self) -> bool:
        """Whether a card is in the slot."""
        return self._port is not None

    @property
    def powered(self) -> bool:
        """Whether the card has power."""
        return self._powered

    def put(self, port: CardPort, atr: bytes, *, powered: bool) -> None:
        """A card is in the slot from now on. For sources; raises `ValueError` when the slot is taken."""
        if self._port is not None:
            raise ValueError(f"{self._name}: there is a card already")
        self._port, self._atr, self._powered = port, atr, powered
        self._protocol = Protocol.UNDEFINED

    def take(self) -> None:
        """The slot is empty from now on. For sources."""
        self._port, self._atr, self._powered = None, b"", False
        self._protocol = Protocol.UNDEFINED

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """Power the card unless it has power, and choose a protocol unless one is in force."""
        if share is ShareMode.DIRECT:
            return self._protocol
        port = self._card()
        if not self._powered:
            self._became(port, await port.power_on())
        if not self._protocol & protocols:
            if self._protocol:
                raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"the card speaks {self._protocol!r}")
            self._protocol = negotiate(self._atr, protocols)
        return self._protocol

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        """Reset the card, warm or cold, and choose a protocol anew."""
        port = self._card()
        if disposition is Disposition.UNPOWER:
            await port.power_off()
            self._became(port, await port.power_on())
        else:
            self._became(port, await (port.reset() if self._powered else port.power_on()))
        self._protocol = negotiate(self._atr, protocols)
        return self._protocol

    async def disconnect(self, disposition: Disposition) -> None:
        """Power the card off, whatever the disposition: nobody is left to use its state, and none may inherit it."""
        port = self._port
        if port is None or not self._powered:
            return
        await port.power_off()
        if self._port is port:
            self._powered = False
            self._protocol = Protocol.UNDEFINED

    def claim(self, *, alone: bool = False) -> Reply[bool]:
        """Nobody else can use this reader: nothing to do, and nobody waits."""
        return answered(alone)

    def release(self) -> Reply[None]:
        """Nothing to do."""
        return DONE

    @replying
    async def transmit(self, apdu: bytes, protocol: Protocol) -> bytes:
        """Let the card answer a command."""
        port = self._port
        if port is None:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if not self._powered:
            raise PcscError(ReturnCode.W_UNPOWERED_CARD)
        return await port.exchange(apdu)

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """The reader has no features (PC/SC part 10): the list of them is empty, other codes are unknown."""
        if code == GET_FEATURE_REQUEST:
            return b""
        raise PcscError(ReturnCode.E_UNSUPPORTED_FEATURE, f"control code {code:#010x}")

    async def attribute(self, attribute: int) -> bytes:
        """What is known about the reader and its card. Text ends with NUL, numbers are in host order."""
        value = self._attribute(attribute)
        if value is None:
            raise PcscError(ReturnCode.E_UNSUPPORTED_FEATURE, f"attribute {attribute:#010x}")
        return value

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """There is nothing to set."""
        raise PcscError(ReturnCode.E_UNSUPPORTED_FEATURE, f"attribute {attribute:#010x}")

    def _attribute(self, attribute: int) -> bytes | None:
        if attribute == Attribute.ATR_STRING:
            self._card()
        name = encode_reader_name(self._name) + b"\0"
        present = self._port is not None
        return {
            Attribute.ATR_STRING.value: self._atr,
            Attribute.VENDOR_NAME.value: _VENDOR_NAME,
            Attribute.VENDOR_IFD_VERSION.value: _DWORD.pack(_VERSION),
            Attribute.DEVICE_FRIENDLY_NAME.value: name,
            Attribute.DEVICE_SYSTEM_NAME.value: name,
            Attribute.CHANNEL_ID.value: _DWORD.pack(_VENDOR_CHANNEL | self._channel),
            Attribute.MAXINPUT.value: _DWORD.pack(MAX_APDU_SIZE),
            Attribute.ICC_PRESENCE.value: _PRESENT if present else _ABSENT,
            Attribute.ICC_INTERFACE_STATUS.value: bytes((self._powered,)),
            Attribute.ICC_TYPE_PER_ATR.value: _ISO_7816_ASYNCHRONOUS if present else _ABSENT,
        }.get(attribute)

    def _card(self) -> CardPort:
        if self._port is None:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        return self._port

    def _became(self, port: CardPort, atr: bytes) -> None:
        """Power has come, or come again; unless the card has gone in the meantime."""
        if self._port is not port:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        self._atr, self._powered = atr, True
        self._protocol = Protocol.UNDEFINED


class SlotSource:
    """Readers of our own making, and whom to tell about them."""

    def __init__(self) -> None:
        self._readers: dict[str, SlotReader] = {}
        self._observer: ReaderObserver | None = None

    @property
    def readers(self) -> tuple[SlotReader, ...]:
        """All readers, in the order in which they came."""
        return tuple(self._readers.values())

    async def run(self, observer: ReaderObserver) -> None:
        """Report what is there and what happens until cancelled."""
        if self._observer is not None:
            raise RuntimeError("this source is running already")
        self._observer = observer
        try:
            for reader in self.readers:
                observer.reader_added(reader)
                if reader.occupied:
                    observer.card_inserted(reader, reported_atr(reader))
            await self._serve()
        finally:
            self._observer = None

    async def _serve(self) -> None:
        """What a subclass does while the source runs; must not return."""
        await asyncio.get_running_loop().create_future()

    def _add(self, reader: SlotReader) -> None:
        if reader.name in self._readers:
            raise ValueError(f"there is a reader of the name {reader.name!r} already")
        self._readers[reader.name] = reader
        if self._observer is not None:
            self._observer.reader_added(reader)

    def _remove(self, reader: SlotReader) -> None:
        del self._readers[reader.name]
        reader.take()
        if self._observer is not None:
            self._observer.reader_removed(reader)

    def _insert(self, reader: SlotReader, port: CardPort, atr: bytes, *, powered: bool) -> None:
        reader.put(port, atr, powered=powered)
        if self._observer is not None:
            self._observer.card_inserted(reader, reported_atr(reader))

    def _eject(self, reader: SlotReader) -> None:
        reader.take()
        if self._observer is not None:
            self._observer.card_removed(reader)


def reported_atr(reader: SlotReader) -> bytes:
    """The ATR as an observer gets it: empty when it is none, because then nothing can be said to the card."""
    try:
        Atr.parse(reader.atr)
    except AtrError as error:
        log.info("%s: the card is taken for mute: %s", reader.name, error)
        return b""
    return reader.atr
