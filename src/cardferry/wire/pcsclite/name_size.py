"""How long the reader names of a pcscd of protocol 4:2 are.

pcsc-lite 1.8.4 made ``MAX_READERNAME`` 128 instead of 100 and left the protocol's number as it was (``pcsclite.h``,
``winscard_msg.h``). The size shows in how much comes in answer to a request for the readers' states: 16 records of 156
bytes, or of 184. A request for the version behind it marks the end.
"""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.exchanges import exchanges
from cardferry.wire.pcsclite.layout import (
    FIXED_SLOTS,
    MAJOR,
    NATIVE,
    OLD_NAME_SIZE,
    OLDEST_MINOR,
    ByteOrder,
    Command,
    compiled,
)
from cardferry.wire.pcsclite.messages import Version

#: The only protocol level, 4:minor, that says nothing about the size.
AMBIGUOUS_MINOR: Final = OLDEST_MINOR


class NameSizeQuestion:
    """Asks one pcscd, over a connection on which nothing else is outstanding.

    Args:
        byte_order: the server's.

    Attributes:
        request: what to send.
    """

    def __init__(self, byte_order: ByteOrder = NATIVE) -> None:
        layout = compiled(byte_order, MAX_READERNAME)
        version = exchanges(byte_order, MAX_READERNAME).by_request[Version]
        request = version.encode(Version(MAJOR, AMBIGUOUS_MINOR))
        self.request = layout.header.pack(0, Command.GET_READERS_STATE) + request
        self._end = request[layout.header.size :]  # the same, with the return value 0
        self._sizes = {
            FIXED_SLOTS * compiled(byte_order, size).record.size + len(self._end): size
            for size in (OLD_NAME_SIZE, MAX_READERNAME)
        }
        self._received = b""

    def receive(self, data: bytes) -> int | None:
        """Take bytes in; return the size of names when it is known.

        In the midst of 16 longer records no bytes look like the end of 16 shorter ones: they lie in a reader's name, or
        in the zeros behind it, and no name has control characters.

        Raises:
            WireError: this is not what a pcscd answers.
        """
        self._received += data
        size = self._sizes.get(len(self._received))
        if size is not None and self._received.endswith(self._end):
            return size
        if len(self._received) >= max(self._sizes):
            raise WireError("reader states of an unknown size")
        return None
