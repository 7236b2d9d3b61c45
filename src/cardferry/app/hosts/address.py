"""``HOST`` on the command line: where readers are. One class for each way to them; `registry` knows them all."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Final

from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way, served_here

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._@-]+")
#: Characters of the longest name derived from a host, so that socket paths stay within 107 bytes.
_MAX_LABEL: Final = 40


class HostAddress(ABC):
    """Where readers are, and how to get there; to be derived as a frozen dataclass.

    Attributes:
        FORMS: what people can write.
    """

    __slots__ = ()
    FORMS: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __str__(self) -> str:
        """As a person writes it; `registry.parse_host` gives it back."""

    @property
    def label(self) -> str:
        """A short name that can be a file's, another one for each host."""
        name = _UNSAFE.sub("-", self._label()).strip(".-")
        if len(name) > _MAX_LABEL:  # commands and long paths may begin alike
            digest = hashlib.sha256(self._label().encode(errors="backslashreplace")).hexdigest()[:8]
            name = f"{name[: _MAX_LABEL - 9]}-{digest}"
        return name or "host"

    def _label(self) -> str:
        return str(self)

    def proof(self) -> object:
        """What this computer proves itself with there: another value when that is another one."""
        return None

    @abstractmethod
    def open_readers(self, way: Way) -> AbstractAsyncContextManager[OpenedReaders]:
        """The readers themselves for the block, without a resource manager in front.

        Raises:
            UserError: they cannot be reached; later losses are mended.
        """

    def reach(self, way: Way) -> AbstractAsyncContextManager[ReachedHost]:
        """What serves the readers, in the best way there is, for the block.

        Raises:
            UserError: they cannot be reached; later losses are mended.
        """
        return self._serve_here(way)

    @asynccontextmanager
    async def _serve_here(self, way: Way) -> AsyncIterator[ReachedHost]:
        async with self.open_readers(way) as readers, served_here(str(self), readers, way.settings) as here:
            yield here
