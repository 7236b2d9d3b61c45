"""Integers inside payloads, all the way from a program of the other byte order to the reader and back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import LocalManager
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.reply import DONE, Reply, answered
from cardferry.readers.base import ReaderObserver
from cardferry.transports.listening import ListeningSocket
from cardferry.wire.pcsclite.layout import ByteOrder
from tests.frontends.library import Build, Library
from tests.frontends.served import ATR

GET_FEATURE_REQUEST = 0x42000D48
VERIFY_PIN_DIRECT, PIN_PROPERTIES = 0x42330006, 0x4233000A
FEATURES = bytes.fromhex("06 04 42330006  0A 04 4233000A")
NATIVE = "<" if sys.byteorder == "little" else ">"
OTHER = ">" if NATIVE == "<" else "<"


def verify(order: str) -> bytes:
    """A PIN_VERIFY_STRUCTURE: wPINMaxExtraDigit 0x0408, wLangId 0x0409, ulDataLength 5."""
    numbers = ("0408", "0409", "00000005") if order == ">" else ("0804", "0904", "05000000")
    return bytes.fromhex("1E1E820400{}0201{}00000000{}0020008000".format(*numbers))


class PinPad:
    """A reader with a key pad, of this computer's byte order; notes what it is told."""

    name = "Pin Pad 00 00"

    def __init__(self) -> None:
        self.told: list[bytes] = []

    async def run(self, observer: ReaderObserver) -> None:
        observer.reader_added(self)
        observer.card_inserted(self, ATR)
        await asyncio.get_running_loop().create_future()

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        return Protocol.T1

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        return Protocol.T1

    async def disconnect(self, disposition: Disposition) -> None: ...

    def claim(self, *, alone: bool = False) -> Reply[bool]:
        return answered(alone)

    def release(self) -> Reply[None]:
        return DONE

    def transmit(self, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        return answered(b"\x90\x00")

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        if code == GET_FEATURE_REQUEST:
            return FEATURES
        if code == PIN_PROPERTIES:
            return (0x0210).to_bytes(2, sys.byteorder) + b"\x07\x00"
        self.told.append(data)
        return b"\x90\x00"

    async def attribute(self, attribute: int) -> bytes:
        return {0x00010102: (0x01025678).to_bytes(4, sys.byteorder), 0x00010100: b"Acme"}[attribute]

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        self.told.append(value)


@pytest.mark.parametrize("order", [NATIVE, OTHER])
async def test_reader_and_program_each_see_their_own_byte_order(order: str, tmp_path: Path) -> None:
    pad = PinPad()
    name: ByteOrder = "big" if order == ">" else "little"
    async with LocalManager([pad]) as manager:
        with ListeningSocket(tmp_path / "s") as listening:
            async with PcscliteFrontend(manager, listening), Library(Build(4, order), listening.path) as library:
                await library.establish()
                card, _ = await library.connect(pad.name)
                assert await library.control(card, GET_FEATURE_REQUEST) == FEATURES
                assert await library.control(card, VERIFY_PIN_DIRECT, verify(order)) == b"\x90\x00"
                assert await library.control(card, PIN_PROPERTIES) == (0x0210).to_bytes(2, name) + b"\x07\x00"
                assert await library.attribute(card, 0x00010102) == (0x01025678).to_bytes(4, name)
                assert await library.attribute(card, 0x00010100) == b"Acme"
                await library.set_attribute(card, 0x0007A007, (261).to_bytes(4, name))
    assert pad.told == [verify(NATIVE), (261).to_bytes(4, sys.byteorder)]
