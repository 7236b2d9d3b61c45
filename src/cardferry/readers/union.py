"""Several sources as one: the readers of several hosts side by side.

A reader keeps its name unless another source has a reader of that name; then it also tells its host:
``Reader 00 00 (laptop)``. The source that comes first in the list has the first choice. Which reader has which name
stays so for as long as the process runs, so that a reader that goes and comes back, as all of a host do when the
network is away, is still the one that programs were told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from cardferry.pcsc.constants import MAX_READERNAME, Disposition, Protocol, ShareMode
from cardferry.readers.base import Reader, ReaderObserver, ReaderSource

_MAX_BYTES: Final = MAX_READERNAME - 1
#: Seconds that a source has to report its readers before the next one may take their names.
_FIRST_CHOICE: Final = 3.0


class UnionSource:
    """One source made of several.

    Args:
        sources: each with the name of its host for people, and what waits until it has reported its readers for the
            first time, or cannot at present.
    """

    def __init__(self, sources: Sequence[tuple[str, ReaderSource, Callable[[], Awaitable[object]]]]) -> None:
        self._sources = tuple(sources)
        self._names: dict[str, tuple[int, str]] = {}

    async def run(self, observer: ReaderObserver) -> None:
        """Run all sources until cancelled; one that is away does not disturb the others."""
        async with asyncio.TaskGroup() as tasks:
            for number, (host, source, known) in enumerate(self._sources):
                tasks.create_task(source.run(_Side(self, number, host, observer)), name=f"readers of {host}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FIRST_CHOICE):
                        await known()

    def name_for(self, number: int, host: str, reader: str) -> str:
        """The name under which a source's reader is known here, the same each time."""
        return next(
            name
            for name in _candidates(reader, host)
            if self._names.setdefault(name, (number, reader)) == (number, reader)
        )


def _candidates(reader: str, host: str) -> Iterator[str]:
    """The reader's own name, then with its host, then with a number as well: without end."""
    yield reader
    for number in itertools.count(1):
        tail = f" ({host})" if number == 1 else f" ({host} {number})"
        room = _MAX_BYTES - len(tail.encode())
        yield reader.encode()[:room].decode(errors="ignore") + tail


class _Side:
    """What one source reports, under the names of the union."""

    def __init__(self, union: UnionSource, number: int, host: str, observer: ReaderObserver) -> None:
        self._union = union
        self._number = number
        self._host = host
        self._observer = observer
        self._known: dict[Reader, Reader] = {}

    def reader_added(self, reader: Reader) -> None:
        name = self._union.name_for(self._number, self._host, reader.name)
        known = reader if name == reader.name else RenamedReader(reader, name)
        self._known[reader] = known
        self._observer.reader_added(known)

    def reader_removed(self, reader: Reader) -> None:
        self._observer.reader_removed(self._known.pop(reader))

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        self._observer.card_inserted(self._known[reader], atr)

    def card_removed(self, reader: Reader) -> None:
        self._observer.card_removed(self._known[reader])


class RenamedReader:
    """A reader under another name.

    Args:
        reader: what does the work.
        name: at most 127 bytes in UTF-8.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader = reader
        self._name = name

    @property
    def name(self) -> str:
        """The other name."""
        return self._name

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """As the reader itself."""
        return await self._reader.connect(share, protocols)

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        """As the reader itself."""
        return await self._reader.reset(disposition, protocols)

    async def disconnect(self, disposition: Disposition) -> None:
        """As the reader itself."""
        await self._reader.disconnect(disposition)

    async def claim(self) -> None:
        """As the reader itself."""
        await self._reader.claim()

    async def release(self) -> None:
        """As the reader itself."""
        await self._reader.release()

    async def transmit(self, apdu: bytes, protocol: Protocol) -> bytes:
        """As the reader itself."""
        return await self._reader.transmit(apdu, protocol)

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """As the reader itself."""
        return await self._reader.control(code, data, max_response)

    async def attribute(self, attribute: int) -> bytes:
        """As the reader itself."""
        return await self._reader.attribute(attribute)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """As the reader itself."""
        await self._reader.set_attribute(attribute, value)
