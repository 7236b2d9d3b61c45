"""Commands carry PINs: what has passed through this process's memory is overwritten soon, as far as Python can.

`Receiver` reads into a buffer of ours, and overwrites it at once (the event loop's own would keep what it read until it
reads as much again). What is made of the bytes are `bytes` objects, which nobody can overwrite who does not own them
alone, and Python does not when it frees them. But what is freed last is handed out first, or nearly so: a moment after
something was received, as many small objects are made and dropped as are likely to take those places.

What is left: commands of more than `_LARGEST` bytes, the kernel's buffers, and pages that were swapped out before.
"""

from __future__ import annotations

import asyncio
from typing import Final

#: Bytes that are read at most at once, as uvloop does it.
_SIZE: Final = 256 * 1024
#: s after the first bytes that were received since the last time.
_DELAY: Final = 0.1
#: Bytes of an object of the type `bytes` itself.
_BYTES: Final = 33
#: Bytes in the objects that are made. With those there is one of each size that Python's own allocator has: up to 512
#: bytes, in steps of 16. A short command in its message is never longer.
_LARGEST: Final = 512
_SIZES: Final = range(8, _LARGEST, 16)
#: Bytes in the objects of each size, together: as in one of the pools from which Python hands out objects of one size.
#: Places are handed out from one pool until it is full, and not from where an object was freed last. And when all
#: objects of a pool are freed, it becomes one for another size: what is beyond the first of those keeps its content.
_ROOM: Final = 16 * 1024

_buffer: Final = bytearray(_SIZE)
_view: Final = memoryview(_buffer)
_zeros: Final = memoryview(bytes(_SIZE))


def room_for(size: int) -> memoryview:
    """So many bytes of the buffer, for a `Receiver` that is given no more at once."""
    return _view[:size]


class Receiver(asyncio.BufferedProtocol):
    """A protocol whose input may carry secrets: `data_received` gets them, and nothing else of ours keeps them.

    One buffer serves all: it is filled, handed on and overwritten within one call from the event loop.
    """

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        del sizehint
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        received = _view[:nbytes]
        data = received.tobytes()
        received[:] = _zeros[:nbytes]
        wipe_soon()
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError


class _Wiper:
    """Calls `wipe_freed` a moment after `soon`, once for all calls until then.

    Attributes:
        loop: in which that is due, None when it is not.
    """

    __slots__ = ("loop",)

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None

    def soon(self) -> None:
        """Something that may be a secret is about to be freed: overwrite it in a moment."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.loop = loop
            loop.call_later(_DELAY, self._wipe)

    def _wipe(self) -> None:
        self.loop = None
        wipe_freed()


wipe_soon: Final = _Wiper().soon


def wipe_freed() -> None:
    """Overwrite small objects that were freed of late, by taking their places for a moment (less than 1 ms)."""
    objects = [bytes(size) for size in _SIZES for _ in range(_ROOM // (size + _BYTES))]
    del objects
