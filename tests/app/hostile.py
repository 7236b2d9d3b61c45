"""A guest that means harm: ``python -m tests.app.hostile SOCKET READER SECONDS`` floods an agent in all ways by turns.

It never waits for the card, and leaves as guests do: all that it can take from others is the agent's time and memory.
"""

from __future__ import annotations

import itertools
import os
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from cardferry.link import messages as m
from cardferry.pcsc.constants import Attribute
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.greeting import Bye, Hello, Reason, Role

#: s for each way.
_TURN: Final = 0.4


class Flood:
    """A link on which much is said at once."""

    def __init__(self, path: str, reader: str) -> None:
        self.reader = reader
        self.calls = 0
        self.bytes = bytearray(
            encode(Kind.HELLO, 0, 0, Hello(Role.GUEST, secrets.token_bytes(16), False, 0, 10_000).encode())
        )
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self.flush()
        self._socket.recv(1 << 16)
        self._socket.setblocking(False)

    def say(self, message: m.FromGuest | bytes) -> None:
        """Say it with the next `flush`."""
        self._number += 1
        payload = message if isinstance(message, bytes) else m.encode(message)
        self.bytes += encode(Kind.DATA, self._number, 0, payload)

    def ask(self, make: m.MakeCall) -> None:
        """Make a call, which somebody waits for."""
        self.calls += 1
        self.say(make(self.calls))

    def flush(self, *, read: bool = True) -> None:
        """Send it all, and read what comes meanwhile unless told not to; raises `OSError` when the agent hangs up."""
        left = memoryview(bytes(self.bytes))
        self.bytes.clear()
        while left:
            readable, writable, _ = select.select([self._socket] if read else [], [self._socket], [], 1)
            if not readable and not writable:
                raise TimeoutError("the agent takes nothing more")
            if readable and not self._socket.recv(1 << 20):
                raise ConnectionError("the agent has hung up")
            if writable:
                left = left[self._socket.send(left) :]

    def leave(self) -> None:
        """Say good-bye."""
        with suppress(OSError):
            self.bytes[:] = encode(Kind.BYE, 0, 0, Bye(Reason.CLOSED, "enough").encode())
            self.flush()
        self._socket.close()


def cancels(flood: Flood) -> Iterator[None]:
    """Thousands of contexts, and calls are cancelled that there never were."""
    for number in range(1, 4001):
        flood.say(m.Open(number, "mallory", None, None, None))
    while True:
        for _ in range(1000):
            flood.say(m.Cancel(1 << 50))
        flood.flush()
        yield


def unread(flood: Flood) -> Iterator[None]:
    """Thousands of questions, and no answer is read."""
    flood.say(m.Open(1, "mallory", None, None, None))
    flood.say(m.Connect(0, 1, 1, flood.reader, 3, 0))  # direct, which takes nobody's turn
    while True:
        for _ in range(500):
            flood.ask(lambda call: m.Attribute(call, 1, Attribute.VENDOR_NAME))
        flood.flush(read=False)
        yield


def pings(flood: Flood) -> Iterator[None]:
    """Signs of life."""
    while True:
        flood.bytes += encode(Kind.PING, 0, 0, bytes(8)) * 1000
        flood.flush(read=False)
        yield


def contexts(flood: Flood) -> Iterator[None]:
    """Contexts come and go."""
    numbers = itertools.count(1)
    while True:
        for number in itertools.islice(numbers, 1000):
            flood.say(m.Open(number, "mallory", None, None, None))
            flood.say(m.Close(number))
        flood.flush()
        yield


def nested(flood: Flood) -> Iterator[None]:
    """A message that nobody could take apart, again and again."""
    flood.say(b"\x93\x03\x01" + b"\x91" * 100_000 + b"\xc0")
    flood.flush()
    time.sleep(0.005)
    yield


def large(flood: Flood) -> Iterator[None]:
    """Messages as large as they may be, with nothing in them."""
    junk = msgspec.msgpack.encode([3, 1, *[1] * 70_000])
    while True:
        for _ in range(4):
            flood.say(junk)
        flood.flush()
        yield


WAYS: Final[tuple[Callable[[Flood], Iterator[None]], ...]] = (cancels, unread, pings, contexts, nested, large)


def main(path: str, reader: str, seconds: float) -> None:
    """Do harm for so many seconds, but leave this computer's processors to others: a guest has one of its own."""
    os.nice(10)
    end = time.monotonic() + seconds
    for way in itertools.cycle(WAYS):
        turn = min(end, time.monotonic() + _TURN)
        while time.monotonic() < turn:
            with suppress(OSError):
                flood = Flood(path, reader)
                with suppress(OSError):
                    for _ in way(flood):
                        if time.monotonic() > turn:
                            break
                flood.leave()
        if time.monotonic() >= end:
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
