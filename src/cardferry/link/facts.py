"""What a reader always says, so that it need not be asked twice.

Only what belongs to the reader and not to the card in it: its maker, type, version, serial number, name, channel,
largest message, and the features that it has (PC/SC part 10) with the properties among them. That a reader does not
support one of these is a fact, too. Facts end when readers come or go, because another one may get the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, MAX_ATTRIBUTE_SIZE, Attribute
from cardferry.pcsc.errors import ReturnCode

_STATIC_ATTRIBUTES: Final = frozenset(
    {
        Attribute.VENDOR_NAME,
        Attribute.VENDOR_IFD_TYPE,
        Attribute.VENDOR_IFD_VERSION,
        Attribute.VENDOR_IFD_SERIAL_NO,
        Attribute.CHANNEL_ID,
        Attribute.MAXINPUT,
        Attribute.DEVICE_FRIENDLY_NAME,
        Attribute.DEVICE_SYSTEM_NAME,
    }
)
#: Features whose control code only reads a description of the reader: ``FEATURE_IFD_PIN_PROPERTIES``,
#: ``FEATURE_IFD_DISPLAY_PROPERTIES`` and ``FEATURE_GET_TLV_PROPERTIES`` (PC/SC part 10, 2.3).
_STATIC_FEATURES: Final = frozenset({0x0A, 0x11, 0x12})
#: A feature in the answer to ``GET_FEATURE_REQUEST``: tag, length 4, control code in big-endian order.
_FEATURE_SIZE: Final = 6
#: Return codes that a fact can have.
_LASTING: Final = frozenset({ReturnCode.S_SUCCESS, ReturnCode.E_UNSUPPORTED_FEATURE})


class About(IntEnum):
    """What kind of question a fact answers."""

    ATTRIBUTE = 0
    CONTROL = 1


class Known(NamedTuple):
    """The answer."""

    code: int
    value: bytes


class Fact(NamedTuple):
    """A question about a reader, and its answer."""

    about: About
    key: int
    known: Known


#: What programs ask for after a reader's features (OpenSC does).
ASKED_NEXT: Final = (Attribute.VENDOR_NAME, Attribute.VENDOR_IFD_VERSION)


def static_codes(features: bytes) -> list[int]:
    """Control codes in the answer to ``GET_FEATURE_REQUEST`` that only read a description of the reader."""
    return [
        int.from_bytes(features[at + 2 : at + _FEATURE_SIZE], "big")
        for at in range(0, len(features) - _FEATURE_SIZE + 1, _FEATURE_SIZE)
        if features[at] in _STATIC_FEATURES and features[at + 1] == _FEATURE_SIZE - 2
    ]


class ReaderFacts:
    """Facts about all readers."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, About, int], Known] = {}

    def find(self, reader: str, about: About, key: int) -> Known | None:
        """What is known."""
        return self._known.get((reader, about, key))

    def learn(self, reader: str, about: About, key: int, answer: Known) -> bool:
        """Remember an answer, if it will always be the same; return whether it is news.

        Args:
            reader: who answered.
            about: what was asked.
            key: the attribute, or the control code (which was sent without data).
            answer: what it said.
        """
        if answer.code not in _LASTING or (reader, about, key) in self._known:
            return False
        if len(answer.value) > MAX_ATTRIBUTE_SIZE:
            return False  # nobody could be told, and there would be no bound to the features in it
        if about is About.ATTRIBUTE:
            static = key in _STATIC_ATTRIBUTES
        else:
            features = self.find(reader, About.CONTROL, GET_FEATURE_REQUEST)
            static = key == GET_FEATURE_REQUEST or (features is not None and key in static_codes(features.value))
        if static:
            self._known[reader, about, key] = answer
        return static

    def forget(self) -> None:
        """Readers came or went."""
        self._known.clear()

    def __iter__(self) -> Iterator[tuple[str, About, int, Known]]:
        return ((*key, answer) for key, answer in self._known.items())
