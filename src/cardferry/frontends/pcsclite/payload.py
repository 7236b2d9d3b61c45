"""Integers inside payloads, for an application whose byte order is not ours.

The pcsc-lite protocol carries the values of attributes and the data of control codes as bytes, and so does everything
behind it. But some of these bytes are C integers and structs in the host order of whoever made them: on one computer
that is everybody's, between two it need not be. The codec (`cardferry.wire.pcsclite`) turns the integers of the
protocol itself, this module those of

- attributes that are a DWORD: PC/SC part 3, 3.1.1, in the order of pcsc-lite's ``reader.h``;
- PIN structures and properties: PC/SC part 10, 2.5 and 2.6, packed as in ``reader.h``.

Which control code means which structure is the driver's choice; it tells in its answer to ``GET_FEATURE_REQUEST``, a
list whose numbers are big-endian everywhere. TLV properties (feature 0x12) are little-endian everywhere; what goes to
a display, to a CCID reader as it is, or to the PACE module has no integers in host order.

Turning is its own inverse, so one function serves both directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final

from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.wire.pcsclite.layout import ByteOrder


class Feature(IntEnum):
    """Tags of features whose structures have integers (PC/SC part 10, 2.3)."""

    VERIFY_PIN_START = 0x01
    MODIFY_PIN_START = 0x03
    VERIFY_PIN_DIRECT = 0x06
    MODIFY_PIN_DIRECT = 0x07
    IFD_PIN_PROPERTIES = 0x0A
    IFD_DISPLAY_PROPERTIES = 0x11


#: The integers of a structure: offset and size in bytes of each.
_Fields = tuple[tuple[int, int], ...]

#: wPINMaxExtraDigit, wLangId, ulDataLength
_PIN_VERIFY: Final[_Fields] = ((5, 2), (9, 2), (15, 4))
_PIN_MODIFY: Final[_Fields] = ((7, 2), (12, 2), (20, 4))
#: The structures that applications send. The last integer is the number of bytes that follow it.
_SENT: Final[Mapping[int, _Fields]] = {
    Feature.VERIFY_PIN_START: _PIN_VERIFY,
    Feature.VERIFY_PIN_DIRECT: _PIN_VERIFY,
    Feature.MODIFY_PIN_START: _PIN_MODIFY,
    Feature.MODIFY_PIN_DIRECT: _PIN_MODIFY,
}
#: The structures that drivers answer: wLcdLayout; wLcdMaxCharacters and wLcdMaxLines.
_ANSWERED: Final[Mapping[int, _Fields]] = {
    Feature.IFD_PIN_PROPERTIES: ((0, 2),),
    Feature.IFD_DISPLAY_PROPERTIES: ((0, 2), (2, 2)),
}

#: Classes of attributes that are all integers: protocol, power management, security, mechanics, protocol in force.
_INTEGER_CLASSES: Final = frozenset((3, 4, 5, 6, 8))
#: Integers of other classes: IFD version, channel, I/O state, largest input, device unit, device in use, no T=1 IFS
#: request.
_INTEGER_ATTRIBUTES: Final = frozenset(
    (0x0001_0102, 0x0002_0110, 0x0009_0302, 0x0007_A007, 0x7FFF_0001, 0x7FFF_0002, 0x7FFF_0007)
)
#: Bytes of a DWORD: four, or eight where a driver means the C type of a 64-bit computer.
_INTEGER_SIZES: Final = (4, 8)
#: A record of the feature list: tag, length (always four), control code.
_RECORD_SIZE: Final = 6
_CODE_SIZE: Final = 4


def turned_attribute(attribute: int, value: bytes) -> bytes:
    """The value of an attribute in the other byte order; unchanged unless it is an integer."""
    integer = attribute >> 16 in _INTEGER_CLASSES or attribute in _INTEGER_ATTRIBUTES
    return value[::-1] if integer and len(value) in _INTEGER_SIZES else value


def control_codes(features: bytes) -> dict[int, int]:
    """The feature tag of each control code in a driver's answer to ``GET_FEATURE_REQUEST``.

    A list that breaks off, or has records of another form, is read as far as it makes sense.
    """
    codes = {}
    for offset in range(0, len(features) - _RECORD_SIZE + 1, _RECORD_SIZE):
        if features[offset + 1] != _CODE_SIZE:
            break
        codes[int.from_bytes(features[offset + 2 : offset + _RECORD_SIZE], "big")] = features[offset]
    return codes


def turned_command(feature: int, data: bytes, order: ByteOrder) -> bytes:
    """The data of a control code, as an application of byte order ``order`` sends it, in the other order.

    Some applications write these structures in the little-endian order of CCID on all computers, and drivers bear both.
    The length in the structure tells: it is turned only when that length is right in the application's own order.
    """
    fields = _SENT.get(feature)
    if fields is None:
        return data
    offset, size = fields[-1]
    end = offset + size
    return _turned(data, fields) if int.from_bytes(data[offset:end], order) == len(data) - end else data


def turned_answer(feature: int, data: bytes) -> bytes:
    """A driver's answer to a control code in the other byte order."""
    return _turned(data, _ANSWERED.get(feature, ()))


def _turned(data: bytes, fields: Iterable[tuple[int, int]]) -> bytes:
    turned = bytearray(data)
    for offset, size in fields:
        end = offset + size
        if end <= len(data):
            turned[offset:end] = data[offset:end][::-1]
    return bytes(turned)


class ControlCodes:
    """What control codes mean, reader by reader, as their drivers have told.

    A driver tells the same to everybody, so that all applications of a front share this: one may ask for the features
    in one context and use them in another.
    """

    def __init__(self) -> None:
        self._features: dict[str, dict[int, int]] = {}

    def command(self, reader: str, code: int, data: bytes, order: ByteOrder) -> bytes:
        """What goes to the reader instead of what an application of the other byte order, ``order``, sends."""
        feature = self._feature(reader, code)
        return data if feature is None else turned_command(feature, data, order)

    def answer(self, reader: str, code: int, data: bytes) -> bytes:
        """What goes to an application of the other byte order instead of the reader's answer; learns from it."""
        if code == GET_FEATURE_REQUEST:
            self._features[reader] = control_codes(data)
        feature = self._feature(reader, code)
        return data if feature is None else turned_answer(feature, data)

    def _feature(self, reader: str, code: int) -> int | None:
        return self._features.get(reader, {}).get(code)
