"""Readers of our own making: power, protocol, attributes."""

from __future__ import annotations

import struct

import pytest

from cardferry.pcsc.constants import (
    CONTROL_CODE_BASE,
    GET_FEATURE_REQUEST,
    Attribute,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.slot import SlotReader, SlotSource, negotiate
from tests.readers.observer import Remembering

T0_ATR = bytes.fromhex("3b00")
T1_ATR = bytes.fromhex("3b800181")
BOTH_ATR = bytes.fromhex("3b80800101")
SPECIFIC_T1 = bytes.fromhex("3b801001")  # TD1 names T=0, but TA2 fixes T=1
T14_ATR = bytes.fromhex("3b800e8e")
ANY, RAW = Protocol.ANY, Protocol.RAW


class Port:
    """A card that says what was done to it."""

    def __init__(self, atr: bytes = T1_ATR) -> None:
        self.atr = atr
        self.done: list[str] = []

    async def power_on(self) -> bytes:
        self.done.append("on")
        return self.atr

    async def reset(self) -> bytes:
        self.done.append("reset")
        return self.atr

    async def power_off(self) -> None:
        self.done.append("off")

    async def exchange(self, apdu: bytes) -> bytes:
        self.done.append(apdu.hex())
        return b"\x90\x00"


def filled(atr: bytes = T1_ATR, *, powered: bool = False) -> tuple[SlotReader, Port]:
    reader, port = SlotReader("Slot 00 00", channel=7), Port(atr)
    reader.put(port, atr, powered=powered)
    return reader, port


@pytest.mark.parametrize(
    ("atr", "wanted", "expected"),
    [
        (T0_ATR, ANY, Protocol.T0),
        (T1_ATR, ANY, Protocol.T1),
        (T1_ATR, Protocol.T1 | RAW, Protocol.T1),
        (BOTH_ATR, ANY, Protocol.T1),
        (BOTH_ATR, Protocol.T0, Protocol.T0),
        (BOTH_ATR, Protocol.T1, Protocol.T1),
        (SPECIFIC_T1, ANY, Protocol.T1),
        (T0_ATR, RAW, RAW),
        (T14_ATR, RAW, RAW),
    ],
)
def test_negotiate(atr: bytes, wanted: Protocol, expected: Protocol) -> None:
    assert negotiate(atr, wanted) == expected


@pytest.mark.parametrize(
    ("atr", "wanted", "code"),
    [
        (T0_ATR, Protocol.T1, ReturnCode.E_PROTO_MISMATCH),
        (T1_ATR, Protocol.T0, ReturnCode.E_PROTO_MISMATCH),
        (T14_ATR, ANY, ReturnCode.E_PROTO_MISMATCH),
        (SPECIFIC_T1, Protocol.T0, ReturnCode.E_PROTO_MISMATCH),
        (b"", ANY, ReturnCode.W_UNRESPONSIVE_CARD),
        (b"\x00\x00", ANY, ReturnCode.W_UNRESPONSIVE_CARD),
    ],
)
def test_negotiate_in_vain(atr: bytes, wanted: Protocol, code: ReturnCode) -> None:
    with pytest.raises(PcscError) as caught:
        negotiate(atr, wanted)
    assert caught.value.code is code


@pytest.mark.parametrize("name", ["", "x" * 128, "é" * 64])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        SlotReader(name)


async def test_connect_powers_once() -> None:
    reader, port = filled()
    assert await reader.connect(ShareMode.SHARED, ANY) == Protocol.T1
    assert await reader.connect(ShareMode.SHARED, ANY) == Protocol.T1
    assert port.done == ["on"]
    assert reader.powered
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.T0)
    assert caught.value.code is ReturnCode.E_PROTO_MISMATCH


async def test_a_card_that_has_power_is_not_powered_again() -> None:
    reader, port = filled(powered=True)
    assert await reader.connect(ShareMode.SHARED, ANY) == Protocol.T1
    assert port.done == []


async def test_direct_touches_nothing() -> None:
    assert await SlotReader("empty").connect(ShareMode.DIRECT, Protocol.UNDEFINED) == Protocol.UNDEFINED
    reader, port = filled()
    assert await reader.connect(ShareMode.DIRECT, Protocol.UNDEFINED) == Protocol.UNDEFINED
    assert port.done == []


async def test_without_a_card() -> None:
    reader = SlotReader("empty")
    for call in (
        reader.connect(ShareMode.SHARED, ANY),
        reader.reset(Disposition.RESET, ANY),
        reader.transmit(b"\x00\xa4\x00\x00", Protocol.T1),
        reader.attribute(Attribute.ATR_STRING),
    ):
        with pytest.raises(PcscError) as caught:
            await call
        assert caught.value.code is ReturnCode.E_NO_SMARTCARD
    await reader.disconnect(Disposition.LEAVE)
    await reader.claim()
    await reader.release()


async def test_resets() -> None:
    reader, port = filled()
    await reader.reset(Disposition.RESET, ANY)
    await reader.reset(Disposition.RESET, ANY)
    assert await reader.reset(Disposition.UNPOWER, ANY) == Protocol.T1
    assert port.done == ["on", "reset", "off", "on"]


@pytest.mark.parametrize("disposition", list(Disposition))
async def test_nobody_inherits_a_session(disposition: Disposition) -> None:
    reader, port = filled()
    await reader.connect(ShareMode.SHARED, ANY)
    await reader.disconnect(disposition)
    await reader.disconnect(disposition)
    assert port.done == ["on", "off"]
    with pytest.raises(PcscError) as caught:
        await reader.transmit(b"\x00\xa4\x00\x00", Protocol.T1)
    assert caught.value.code is ReturnCode.W_UNPOWERED_CARD


async def test_attributes_and_features() -> None:
    reader, _ = filled()
    assert await reader.attribute(Attribute.ATR_STRING) == T1_ATR
    assert await reader.attribute(Attribute.VENDOR_NAME) == b"cardferry\0"
    assert await reader.attribute(Attribute.DEVICE_FRIENDLY_NAME) == b"Slot 00 00\0"
    assert await reader.attribute(Attribute.CHANNEL_ID) == struct.pack("=I", 0x00F00007)
    assert await reader.attribute(Attribute.MAXINPUT) == struct.pack("=I", 65548)
    assert await reader.attribute(Attribute.ICC_PRESENCE) == b"\x02"
    assert await reader.attribute(Attribute.ICC_INTERFACE_STATUS) == b"\x00"
    await reader.connect(ShareMode.SHARED, ANY)
    assert await reader.attribute(Attribute.ICC_INTERFACE_STATUS) == b"\x01"
    assert await reader.control(GET_FEATURE_REQUEST, b"", 100) == b""
    for call in (
        reader.attribute(Attribute.VENDOR_IFD_SERIAL_NO),
        reader.set_attribute(Attribute.VENDOR_NAME, b"x"),
        reader.control(CONTROL_CODE_BASE + 1, b"", 100),
    ):
        with pytest.raises(PcscError) as caught:
            await call
        assert caught.value.code is ReturnCode.E_UNSUPPORTED_FEATURE


async def test_a_card_that_goes_while_it_is_powered() -> None:
    reader, port = filled()

    async def gone() -> bytes:
        reader.take()
        return T1_ATR

    port.power_on = gone  # type: ignore[method-assign]
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, ANY)
    assert caught.value.code is ReturnCode.E_NO_SMARTCARD


async def test_a_slot_holds_one_card() -> None:
    reader, _ = filled()
    with pytest.raises(ValueError, match="already"):
        reader.put(Port(), T1_ATR, powered=False)


async def test_a_source_runs_once_at_a_time() -> None:
    source = SlotSource()
    source._observer = Remembering()
    with pytest.raises(RuntimeError):
        await source.run(Remembering())
