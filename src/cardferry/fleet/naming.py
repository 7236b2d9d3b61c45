"""What readers are called where those of several hosts are side by side.

A reader keeps its name unless another host's reader has it already; then it also tells its host: ``Reader 00 00
(laptop)``. Which reader has which name stays so for as long as the process runs, so that a reader that goes and comes
back, as all of a host do when the network is away, is still the one that programs were told of.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from typing import Final

from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.pcsc.reader_name import decode_reader_name, encode_reader_name, shortened_reader_name

_MAX_BYTES: Final = MAX_READERNAME - 1
#: Which reader: its host's number, and its name there.
Origin = tuple[int, str]


class ReaderNames:
    """The names that were given so far."""

    def __init__(self) -> None:
        self._names: dict[Origin, str] = {}
        self._origins: dict[str, Origin] = {}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, origin: Origin, host: str) -> str:
        """The reader's name here, the same each time.

        Args:
            host: what its host is called.
        """
        name = self._names.get(origin)
        if name is None:
            name = next(one for one in _candidates(origin[1], host) if one not in self._origins)
            self._names[origin] = name
            self._origins[name] = origin
        return name

    def origin(self, name: str) -> Origin | None:
        """Which reader has that name; None for a name that was never given."""
        return self._origins.get(name)

    def forget(self, but: Container[Origin]) -> None:
        """Forget all readers but those: there is no end to the names that a host can think of."""
        self._keep({origin: name for origin, name in self._names.items() if origin in but})

    def forget_host(self, number: int) -> None:
        """Forget the readers of a host: others may have their names."""
        self._keep({origin: name for origin, name in self._names.items() if origin[0] != number})

    def _keep(self, names: dict[Origin, str]) -> None:
        self._names = names
        self._origins = {name: origin for origin, name in names.items()}


def _candidates(reader: str, host: str) -> Iterator[str]:
    """The reader's own name, then with its host, then with a number as well: without end."""
    yield reader
    for number in itertools.count(1):
        tail = f" ({host})" if number == 1 else f" ({host} {number})"
        room = _MAX_BYTES - len(tail.encode())
        yield decode_reader_name(shortened_reader_name(encode_reader_name(reader), room)) + tail
