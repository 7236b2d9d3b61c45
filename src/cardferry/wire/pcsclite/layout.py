"""What all messages have in common: levels, commands, the header, reader names and state arrays.

Source: ``winscard_msg.h`` (``rxHeader``) and ``eventhandler.h`` (``READER_STATE``) of pcsc-lite 1.6.5 to 2.5. The C
structs are the same on every ABI: 32-bit fields, naturally aligned, three bytes of padding after ``cardAtr`` and
nowhere else. The byte order is the server's own, so it is a parameter here, and so is ``MAX_READERNAME``, which was 100
up to 1.8.3. The structs of the single messages are in `exchanges`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final, Literal

from cardferry.pcsc.constants import MAX_ATR_SIZE, MAX_READERNAME, CardState, Protocol
from cardferry.pcsc.reader_name import decode_reader_name, encode_reader_name, shortened_reader_name
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError

ByteOrder = Literal["little", "big"]

#: The byte order of this computer.
NATIVE: Final[ByteOrder] = sys.byteorder
#: The protocol's major number (``PROTOCOL_VERSION_MAJOR``).
MAJOR: Final = 4
#: The oldest protocol level spoken here, of pcsc-lite 1.6.5.
OLDEST_MINOR: Final = 2
#: The newest protocol level spoken here, of pcsc-lite 2.5.
NEWEST_MINOR: Final = 6
#: Levels whose wait is answered with the states. On older ones they were asked for before, on newer ones afterwards.
WAIT_ANSWERED: Final = (4, 5)
#: ``MAX_READERNAME`` up to pcsc-lite 1.8.3.
OLD_NAME_SIZE: Final = 100
#: Records in a fixed state array (``PCSCLITE_MAX_READERS_CONTEXTS``).
FIXED_SLOTS: Final = 16
#: ``cardAtrLength`` of a reader that pcscd is still starting: one more than an ATR can have.
ATR_NOT_KNOWN_YET: Final = MAX_ATR_SIZE + 1

#: How pcscd ends a reader's name: the numbers of reader and slot, in hexadecimal.
_READER_NUMBERS: Final = re.compile(rb" [0-9A-F]{2} [0-9A-F]{2}\Z")
_DIGEST_DIGITS: Final = 8
#: Byte orders in the notation of `struct`; each also says that nothing is aligned but by explicit padding.
FLAGS: Final = {"little": "<", "big": ">"}
_MASK: Final = 0xFFFF_FFFF
#: Encoded state arrays remembered per layout; one per published snapshot and array size is in use at any time.
_REMEMBERED: Final = 32


class Command(IntEnum):
    """``enum pcsc_msg_commands``, without the three that no client ever sent (3, 0x0C, 0x0E)."""

    ESTABLISH_CONTEXT = 0x01
    RELEASE_CONTEXT = 0x02
    CONNECT = 0x04
    RECONNECT = 0x05
    DISCONNECT = 0x06
    BEGIN_TRANSACTION = 0x07
    END_TRANSACTION = 0x08
    TRANSMIT = 0x09
    CONTROL = 0x0A
    STATUS = 0x0B
    CANCEL = 0x0D
    GET_ATTRIB = 0x0F
    SET_ATTRIB = 0x10
    VERSION = 0x11
    GET_READERS_STATE = 0x12
    WAIT_READER_STATE_CHANGE = 0x13
    STOP_WAITING_READER_STATE_CHANGE = 0x14
    GET_READER_EVENTS = 0x15
    GET_READERS_STATE_SIZE = 0x16
    GET_READERS_STATE_ARRAY = 0x17


@dataclass(frozen=True, slots=True)
class Dialect:
    """All that makes one peer's bytes differ from another's.

    Attributes:
        byte_order: of every integer; the server's own.
        minor: protocol level 4:minor, 2 to 6.
        name_size: bytes of a reader name with its closing NUL, 128, or 100 up to pcsc-lite 1.8.3.
        slots: records in the array of the fixed-size state replies, 16 in upstream's builds.
    """

    byte_order: ByteOrder = NATIVE
    minor: int = NEWEST_MINOR
    name_size: int = MAX_READERNAME
    slots: int = FIXED_SLOTS

    def __post_init__(self) -> None:
        if self.byte_order not in FLAGS:
            raise ValueError(f"byte order is little or big, not {self.byte_order!r}")
        if not OLDEST_MINOR <= self.minor <= NEWEST_MINOR:
            raise ValueError(f"protocol level 4:{self.minor} is outside 4:{OLDEST_MINOR} to 4:{NEWEST_MINOR}")
        if self.name_size not in (OLD_NAME_SIZE, MAX_READERNAME):
            raise ValueError(f"a reader name takes {OLD_NAME_SIZE} or {MAX_READERNAME} bytes, not {self.name_size}")
        if self.slots < 1:
            raise ValueError(f"a state array has at least one slot, not {self.slots}")


def encode_name(name: str, size: int) -> bytes:
    """A reader name in bytes that leave room for a NUL in ``size`` bytes.

    A name that is too long keeps its beginning and pcscd's numbers at its end, and gets eight digits of its digest in
    between: two long names do not become equal, and a name is shortened to the same one each time, whatever other
    readers there are.
    """
    raw = encode_reader_name(name)
    return raw if len(raw) < size else _shortened(raw, size)


def _shortened(raw: bytes, size: int) -> bytes:
    numbers = _READER_NUMBERS.search(raw)
    end = b"~" + hashlib.sha256(raw).hexdigest()[:_DIGEST_DIGITS].encode() + (numbers[0] if numbers else b"")
    return shortened_reader_name(raw, size - 1 - len(end)) + end


def decode_name(raw: bytes) -> str:
    """The text before the first NUL of a name field, see `cardferry.pcsc.reader_name`."""
    return decode_reader_name(raw.partition(b"\0")[0])


class Layout:
    """What the messages of one byte order and name size have in common. Get one by `layout_of`.

    Attributes:
        name_size: bytes of a reader name with its closing NUL.
        word: any number without a sign.
        header: ``{size, command}`` in front of a request (``rxHeader``).
        signal: ``{timeOut, rv}``, the reply to a stop and the event (``wait_reader_state_change``).
        record: one reader in a state array (``READER_STATE``).
    """

    __slots__ = ("_decoded", "_encoded", "header", "name_size", "record", "signal", "word")

    def __init__(self, byte_order: ByteOrder, name_size: int) -> None:
        flag = FLAGS[byte_order]
        self.name_size = name_size
        self.word = Struct(f"{flag}I")
        self.header = self.signal = Struct(f"{flag}II")
        # ``3x``: the ATR has 33 bytes, and the word behind it is aligned to four.
        self.record = Struct(f"{flag}{name_size}sIIi{MAX_ATR_SIZE}s3xII")
        self._encoded: dict[tuple[int, int], tuple[Sequence[ReaderState], bytes]] = {}
        self._decoded: tuple[bytes, tuple[ReaderState, ...]] = (b"", ())

    def encode_reader(self, reader: ReaderState) -> bytes:
        """One ``READER_STATE``: 184 bytes, or 156 with short names.

        The ATR length never exceeds 33: clients copy that many bytes into a 33-byte array without a check.
        """
        atr = reader.atr[:MAX_ATR_SIZE]
        return self.record.pack(
            encode_name(reader.name, self.name_size),
            reader.event_counter & _MASK,
            reader.state & _MASK,
            reader.sharing,
            atr,
            len(atr),
            reader.protocol & _MASK,
        )

    def encode_array(self, readers: Sequence[ReaderState], count: int) -> bytes:
        """The first ``count`` readers, filled up with empty slots to ``count`` records.

        An empty slot is all zeros, as pcscd 2.5 pads: no name, no state, and an ATR length from which no client can
        copy too much. (Older pcscd leave 34 there, from before the reader was started.)

        The result for a tuple is remembered by the tuple's identity: thousands of clients ask for the same
        snapshot.
        """
        if not isinstance(readers, tuple):
            return self._encode_array(readers, count)
        key = (id(readers), count)
        remembered = self._encoded.get(key)
        if remembered is None:
            if len(self._encoded) >= _REMEMBERED:
                del self._encoded[next(iter(self._encoded))]
            # The tuple is kept with its bytes, so that its id stays its own.
            remembered = self._encoded[key] = (readers, self._encode_array(readers, count))
        return remembered[1]

    def _encode_array(self, readers: Sequence[ReaderState], count: int) -> bytes:
        records = [self.encode_reader(reader) for reader in readers[:count]]
        records.append(bytes((count - len(records)) * self.record.size))
        return b"".join(records)

    def decode_array(self, raw: bytes) -> tuple[ReaderState, ...]:
        """The readers in an array of whole records; slots without a name are left out.

        The same bytes as the last time give the same tuple.

        Raises:
            WireError: a reader's ATR is longer than any ATR.
        """
        if raw == self._decoded[0]:
            return self._decoded[1]
        readers = []
        for name, counter, state, sharing, atr, atr_length, protocol in self.record.iter_unpack(raw):
            if not name[0]:
                continue
            if atr_length > ATR_NOT_KNOWN_YET:
                raise WireError(f"reader state with an ATR of {atr_length} bytes")
            readers.append(
                ReaderState(
                    decode_name(name),
                    counter,
                    CardState(state),
                    sharing,
                    atr[:atr_length] if atr_length <= MAX_ATR_SIZE else b"",
                    Protocol(protocol),
                )
            )
        self._decoded = (raw, tuple(readers))
        return self._decoded[1]


@lru_cache(maxsize=4)
def compiled(byte_order: ByteOrder, name_size: int) -> Layout:
    """The one `Layout` of a byte order and a name size."""
    return Layout(byte_order, name_size)


def layout_of(dialect: Dialect) -> Layout:
    """The one `Layout` of a dialect; level and slots do not matter to it."""
    return compiled(dialect.byte_order, dialect.name_size)
