"""One program that uses all of PC/SC, run by the Python and the libpcsclite of another Debian release or processor.

    client.py READER [--wait-for-card]      steps as lines of JSON: {"step": ..., "ok": ..., "detail": ...}

It has only the standard library, and any Python from 3.9 on. With ``--wait-for-card`` it starts with an empty reader:
says ``waiting``, waits in SCardGetStatusChange for the card, then goes on. The card is `tests.lab.card_fake`.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
import threading
from ctypes import Structure, byref, c_char_p, c_long, c_ubyte, c_ulong, c_void_p
from typing import Any

SHARED, LEAVE, ANY_PROTOCOL, USER = 2, 0, 3, 0
PRESENT, CHANGED, CANCELLED = 0x20, 0x02, 0x80100002
UNSUPPORTED = 0x8010001F
MAX_RESPONSE = 65538
GET_FEATURE_REQUEST = 0x42000000 + 3400
ATR_STRING, IFD_VERSION = 0x00090303, 0x00010102
LENGTHS = (5, 255, 4000)


class ReaderState(Structure):
    """SCARD_READERSTATE; the ATR is followed by what the compiler adds."""

    _fields_ = (
        ("reader", c_char_p),
        ("user_data", c_void_p),
        ("current_state", c_ulong),
        ("event_state", c_ulong),
        ("atr_size", c_ulong),
        ("atr", c_ubyte * 33),
    )


class IoRequest(Structure):
    """SCARD_IO_REQUEST."""

    _fields_ = (("protocol", c_ulong), ("size", c_ulong))


class CallError(Exception):
    """A call returned an error."""


library = ctypes.CDLL("libpcsclite.so.1")


def code_of(name: str, *arguments: Any) -> int:
    """Call a function, return its code."""
    function = library[name]
    function.restype = c_long
    code: int = function(*arguments)
    return code & 0xFFFFFFFF


def call(name: str, *arguments: Any) -> None:
    """Call a function, raise on an error."""
    code = code_of(name, *arguments)
    if code:
        raise CallError(f"{name}: 0x{code:08X}")


class Program:
    """The steps, in order; each returns what is worth telling."""

    def __init__(self, reader: str) -> None:
        self.wanted = reader
        self.context = c_long()
        self.card = c_long()
        self.protocol = c_ulong()
        self.name = b""

    def establish(self) -> None:
        call("SCardEstablishContext", c_ulong(USER), None, None, byref(self.context))

    def list_readers(self) -> list[str]:
        size = c_ulong(65536)
        buffer = ctypes.create_string_buffer(size.value)
        call("SCardListReaders", self.context, None, buffer, byref(size))
        names = [name for name in buffer.raw[: size.value].split(b"\0") if name]
        self.name = next(name for name in names if self.wanted.encode() in name)
        return [name.decode() for name in names]

    def wait_for_card(self) -> str:
        known = 0
        while True:
            state = ReaderState(self.name, None, known, 0, 0)
            call("SCardGetStatusChange", self.context, c_ulong(60000), byref(state), c_ulong(1))
            if state.event_state & PRESENT:
                return bytes(state.atr[: state.atr_size]).hex()
            known = state.event_state & ~CHANGED
            say(step="waiting", ok=True)

    def atr(self) -> str:
        state = ReaderState(self.name, None, 0, 0, 0)
        call("SCardGetStatusChange", self.context, c_ulong(0), byref(state), c_ulong(1))
        return bytes(state.atr[: state.atr_size]).hex()

    def connect(self) -> int:
        call(
            "SCardConnect",
            self.context,
            c_char_p(self.name),
            c_ulong(SHARED),
            c_ulong(ANY_PROTOCOL),
            byref(self.card),
            byref(self.protocol),
        )
        return self.protocol.value

    def status(self) -> str:
        name, size = ctypes.create_string_buffer(256), c_ulong(256)
        state, protocol = c_ulong(), c_ulong()
        atr, atr_size = (c_ubyte * 33)(), c_ulong(33)
        call("SCardStatus", self.card, name, byref(size), byref(state), byref(protocol), atr, byref(atr_size))
        assert name.value == self.name, name.value
        assert protocol.value == self.protocol.value, protocol.value
        return bytes(atr[: atr_size.value]).hex()

    def begin(self) -> None:
        call("SCardBeginTransaction", self.card)

    def transmit(self, apdu: bytes) -> bytes:
        pci = IoRequest(self.protocol.value, ctypes.sizeof(IoRequest))
        buffer, size = ctypes.create_string_buffer(MAX_RESPONSE), c_ulong(MAX_RESPONSE)
        arguments = c_char_p(apdu), c_ulong(len(apdu)), None, buffer, byref(size)
        call("SCardTransmit", self.card, byref(pci), *arguments)
        return buffer.raw[: size.value]

    def apdus(self) -> list[int]:
        for wanted in LENGTHS:
            answer = self.transmit(b"\x80\x10" + wanted.to_bytes(2, "big") + b"\x00")
            assert answer == bytes(index & 0xFF for index in range(wanted)) + b"\x90\x00", (wanted, len(answer))
            body = bytes(index * 7 & 0xFF for index in range(wanted))
            length = bytes((wanted,)) if wanted < 256 else b"\0" + wanted.to_bytes(2, "big")
            answer = self.transmit(b"\x80\x40\x00\x00" + length + body)
            expected = (4 + len(length) + wanted).to_bytes(4, "big") + (sum(body) & 0xFFFF).to_bytes(2, "big")
            assert answer == expected + b"\x90\x00", (wanted, answer.hex())
        return list(LENGTHS)

    def end(self) -> None:
        call("SCardEndTransaction", self.card, c_ulong(LEAVE))

    def control(self) -> str:
        buffer, size = (c_ubyte * 256)(), c_ulong()
        arguments = None, c_ulong(0), buffer, c_ulong(256), byref(size)
        code = code_of("SCardControl", self.card, c_ulong(GET_FEATURE_REQUEST), *arguments)
        assert code in (0, UNSUPPORTED), hex(code)
        return f"0x{code:08X}"

    def attributes(self) -> dict[str, int | str]:
        told: dict[str, int | str] = {}
        for attribute in (ATR_STRING, IFD_VERSION):
            buffer, size = (c_ubyte * 264)(), c_ulong(264)
            code = code_of("SCardGetAttrib", self.card, c_ulong(attribute), buffer, byref(size))
            assert code in (0, UNSUPPORTED), hex(code)
            value = bytes(buffer[: size.value])
            if code:
                told[f"0x{attribute:08X}"] = f"0x{code:08X}"
            elif attribute == IFD_VERSION:
                told[f"0x{attribute:08X}"] = int.from_bytes(value, sys.byteorder)
            else:
                told[f"0x{attribute:08X}"] = value.hex()
        return told

    def cancel(self) -> None:
        state = ReaderState(self.name, None, 0, 0, 0)
        call("SCardGetStatusChange", self.context, c_ulong(0), byref(state), c_ulong(1))
        result: list[int] = []

        def wait() -> None:
            code = 0
            while code == 0:  # others come and go at this reader, and that is a change, too
                state.current_state = state.event_state & ~CHANGED
                code = code_of("SCardGetStatusChange", self.context, c_ulong(60000), byref(state), c_ulong(1))
            result.append(code)

        waiter = threading.Thread(target=wait)
        waiter.start()
        while waiter.is_alive():  # the library does nothing when the wait has not begun yet: ask until it has
            call("SCardCancel", self.context)
            waiter.join(0.05)
        assert result == [CANCELLED], hex(result[0])

    def disconnect(self) -> None:
        call("SCardDisconnect", self.card, c_ulong(LEAVE))

    def release(self) -> None:
        call("SCardReleaseContext", self.context)


def say(**values: object) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


def main(reader: str, wait: bool) -> None:
    """Run all steps; the first that fails is the last."""
    say(step="start", ok=True, detail=f"{platform.machine()} {sys.byteorder}-endian")
    program = Program(reader)
    steps = ["establish", "list_readers"] + (["wait_for_card"] if wait else [])
    # everything in one transaction: pcscd, unlike cardferry, fails control codes while somebody else has the card
    steps += ["atr", "connect", "status", "begin", "apdus", "control", "attributes", "end", "disconnect", "cancel"]
    for step in [*steps, "release"]:
        try:
            say(step=step, ok=True, detail=getattr(program, step)())
        except (CallError, AssertionError, StopIteration) as error:
            say(step=step, ok=False, detail=str(error) or "reader not found")
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], "--wait-for-card" in sys.argv)
