"""Messages between two processes over a Unix socket, with open files (``SCM_RIGHTS``): a line of JSON each.

It reads its socket by itself, because no transport of an event loop gives descriptors away. Descriptors come with the
first byte of what was sent along with them (unix(7)); a message says how many are its own, so that it does not matter
in which pieces the stream arrives.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from cardferry.app.runtime import ascii_json
from cardferry.system.descriptors import receive_any, send_descriptors

log = logging.getLogger(__name__)

#: Bytes of the longest message, and of the most that waits to be sent: then what can be missed is left out.
MOST: Final = 16 << 20
_MOST_WAITING: Final = 1 << 18
_READ_SIZE: Final = 1 << 16
#: Descriptors that one read can bring.
_MOST_DESCRIPTORS: Final = 16

Message = TypeVar("Message")


class Conversation(Generic[Message]):
    """One end.

    Args:
        connection: a connected stream socket, which becomes the conversation's.
        kind: of the messages that come: a union of tagged structs.
        received: gets each message, and its descriptors, which are the receiver's to close.
        early: what has come already.

    Attributes:
        over: done when nothing comes any more: the other end has gone, or says what nobody understands.
    """

    def __init__(
        self,
        connection: socket.socket,
        kind: Any,
        received: Callable[[Message, list[int]], None],
        early: bytes = b"",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._connection = connection
        self._kind = kind
        self._received = received
        self._data = bytearray(early)
        self._descriptors: deque[int] = deque()
        self._waiting: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting_size = 0
        connection.setblocking(False)
        self._number = connection.fileno()
        self._loop.add_reader(self._number, self._readable)

    def send(self, message: msgspec.Struct, descriptors: Sequence[int] = (), *, missable: bool = False) -> None:
        """Send a message, soon.

        Args:
            descriptors: go along with it; they stay the caller's to close.
            missable: leave it out when the other end does not keep up.
        """
        if self._number < 0 or (missable and self._waiting_size > _MOST_WAITING):
            return
        line = memoryview(line_of(message, len(descriptors)))
        self._waiting.append((line, [os.dup(descriptor) for descriptor in descriptors]))
        self._waiting_size += len(line)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            line, descriptors = self._waiting[0]
            try:
                if descriptors:
                    sent = send_descriptors(self._connection, bytes(line), descriptors)
                else:
                    sent = self._connection.send(line)
            except BlockingIOError:
                self._loop.add_writer(self._number, self._flush)
                return
            except OSError as error:
                log.debug("nobody is at the other end: %s", error)
                self._forget_waiting()
                return
            for descriptor in descriptors:
                os.close(descriptor)
            self._waiting_size -= sent
            if sent == len(line):
                self._waiting.popleft()
            else:
                self._waiting[0] = (line[sent:], ())
        self._loop.remove_writer(self._number)

    def _forget_waiting(self) -> None:
        self._loop.remove_writer(self._number)
        for _, descriptors in self._waiting:
            for descriptor in descriptors:
                os.close(descriptor)
        self._waiting.clear()

    def _readable(self) -> None:
        try:
            data, descriptors = receive_any(self._connection, _READ_SIZE, _MOST_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("the other end has gone: %s", error)
            self._end()
            return
        self._descriptors.extend(descriptors)
        self._data += data
        if not data or len(self._data) > MOST:
            self._end()
            return
        self.read_early()

    def read_early(self) -> None:
        """Deal with what has come before there was a conversation."""
        while not self.over.done() and (end := self._data.find(b"\n")) >= 0:
            line = bytes(self._data[:end])
            del self._data[: end + 1]
            try:
                count, message = _opened(line, self._kind)
                if not 0 <= count <= len(self._descriptors):
                    raise ValueError(f"{count} descriptors are missing")
            except ValueError as error:
                log.warning("the other end of a conversation says what nobody understands: %s", error)
                self._end()
                return
            self._received(message, [self._descriptors.popleft() for _ in range(count)])

    def _end(self) -> None:
        self._loop.remove_reader(self._number)
        if not self.over.done():
            self.over.set_result(None)

    async def ended(self, patience: float | None = None) -> None:
        """Wait until it is over, or for so many s; whoever does not wait any longer changes nothing for others."""
        await asyncio.wait((self.over,), timeout=patience)  # awaited by itself, it would be cancelled with its waiter

    def detach(self) -> socket.socket:
        """Give the connection back, and be over."""
        self._end()
        self._forget_waiting()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._number = -1
        return self._connection

    def close(self) -> None:
        """Be over; what was sent last is on its way, unless the other end did not keep up."""
        if self._number >= 0:
            self.detach().close()


def line_of(message: msgspec.Struct, descriptors: int = 0) -> bytes:
    """A message as it is sent, for those who say one word and need no conversation.

    Args:
        descriptors: how many come along.
    """
    return ascii_json.encode(_Envelope(message, descriptors)).encode() + b"\n"


class _Envelope(msgspec.Struct):
    message: Any
    descriptors: int


def _opened(line: bytes, kind: Any) -> tuple[int, Any]:
    """How many descriptors belong to a message, and the message; raises `ValueError`."""
    envelope = ascii_json.decode(line, _Envelope)
    return envelope.descriptors, msgspec.convert(envelope.message, type=kind)
