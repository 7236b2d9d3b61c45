"""Commands that come in pieces, and responses that leave in pieces.

Implements command chaining (ISO 7816-4:2020, 5.3.3) and the ``61xx`` / GET RESPONSE way of fetching a long
response (ISO 7816-4, 5.3.4 and 11.8.1). Both are independent of extended lengths: a client may use either, or
mix them.
"""

from __future__ import annotations

from typing import Final

from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import MAX_EXTENDED_LE, MAX_SHORT_LE, CommandApdu, StatusWord

_CHAIN_BIT: Final = 0x10


class CommandChain:
    """Puts the pieces of a command together.

    A piece that does not continue the chain begins something new: a client that vanished in the middle of its
    command must not be in the way of the next one.

    Args:
        limit: bytes of data of a whole command at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._header: tuple[int, int, int, int] | None = None
        self._data = bytearray()

    def clear(self) -> None:
        """Forget what has come so far."""
        self._header = None
        self._data.clear()

    def preview(self, command: CommandApdu) -> CommandApdu | None:
        """What `add` would return, without adding; a command that is too long is returned alone."""
        if command.is_chained:
            return None
        data = bytes(self._data) + command.data if self._continues(command) else command.data
        if len(data) > self._limit:
            return command
        return CommandApdu(command.cla, command.ins, command.p1, command.p2, data, command.ne, command.extended)

    def add(self, command: CommandApdu) -> CommandApdu | None:
        """Add a piece; the whole command when this was the last one, None when more must come.

        Raises `StatusError` with ``6A84`` when the command becomes too long; the chain is forgotten then.
        """
        if not self._continues(command):
            self.clear()
        if len(self._data) + len(command.data) > self._limit:
            self.clear()
            raise StatusError(StatusWord.NOT_ENOUGH_MEMORY, "command too long")
        if command.is_chained:
            self._header = _header(command)
            self._data += command.data
            return None
        whole = self.preview(command)
        self.clear()
        return whole

    def _continues(self, command: CommandApdu) -> bool:
        return self._header is not None and self._header == _header(command)


def _header(command: CommandApdu) -> tuple[int, int, int, int]:
    return command.cla & ~_CHAIN_BIT, command.ins, command.p1, command.p2


class ResponseChain:
    """Hands out a response in as many pieces as the client's expected lengths ask for."""

    def __init__(self) -> None:
        self._data = b""

    def clear(self) -> None:
        """Forget what has not been fetched."""
        self._data = b""

    def first(self, data: bytes, command: CommandApdu) -> bytes:
        """The response to ``command``, or its first piece.

        A command without Le that has an answer gets it all the same, up to what its kind of length field
        could have asked for: PIV clients leave out Le, as T=0 made them, and real cards answer so.
        """
        self._data = data
        return self.next(command)

    def next(self, command: CommandApdu) -> bytes:
        """The next piece. Raises `StatusError` with ``6985`` for a GET RESPONSE when nothing waits."""
        if command.is_get_response and not self._data:
            raise StatusError(StatusWord.CONDITIONS_NOT_SATISFIED, "no response waits")
        size = command.ne or (MAX_EXTENDED_LE if command.extended else MAX_SHORT_LE)
        piece, self._data = self._data[:size], self._data[size:]
        status = StatusWord.more_data(len(self._data)) if self._data else StatusWord.SUCCESS
        return piece + status.encode()
