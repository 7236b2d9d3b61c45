"""What a codec holds of a message that is not whole yet."""

from __future__ import annotations


class Inbox:
    """Holds input back until ``need`` bytes are there, without copying input that is whole already.

    Bytes fed one by one cost constant time each; a piece that has all that is needed is handed through as it is.

    Attributes:
        need: bytes the codec needs for its next step, at least 1 between two calls of `take`.
        held: what is held back; for a look only.
    """

    __slots__ = ("held", "need")

    def __init__(self, need: int) -> None:
        self.need = need
        self.held = bytearray()

    def __len__(self) -> int:
        return len(self.held)

    def take(self, data: bytes | bytearray | memoryview) -> bytes:
        """All bytes held and ``data`` when that is at least ``need``, otherwise nothing."""
        held = self.held
        if held:
            held += data
            if len(held) < self.need:
                return b""
            data = bytes(held)
            held.clear()
        elif not isinstance(data, bytes):
            data = bytes(data)
        return data

    def keep(self, data: bytes, offset: int) -> None:
        """Hold ``data`` from ``offset`` on for the next `take`."""
        if offset < len(data):
            self.held += memoryview(data)[offset:]
