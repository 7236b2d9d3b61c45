"""One look at the agent for all viewers, at most twice a second, and none while nobody watches.

What has changed is rendered once and goes to each viewer in a pass of the event loop of its own, so that however many
there are, a call of a card waits for one write at most. A viewer that does not keep up gets the newest of each section.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

log = logging.getLogger(__name__)

#: s between two looks.
PAUSE: Final = 0.5
#: s after which something is sent to a viewer to which nothing was.
_SILENCE: Final = 15.0
#: Viewers at a time.
MOST: Final = 128

Sections = Mapping[str, str]


class Viewer:
    """Somebody who watches.

    Attributes:
        sections: what it has not been sent yet.
    """

    def __init__(self) -> None:
        self.sections: dict[str, bytes] = {}
        self._news = asyncio.Event()
        self._over = False

    def give(self, sections: Mapping[str, bytes]) -> None:
        """Something is new."""
        self.sections.update(sections)
        self._news.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        self._news.set()

    async def stream(self, good: Callable[[], bool]) -> AsyncIterator[bytes]:
        """What is sent to it, until the page ends, or it may see nothing more.

        Args:
            good: whether it still may.
        """
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._news.wait()
            except TimeoutError:
                self.sections[""] = b":\n\n"
            self._news.clear()
            if self._over:
                return
            if not good():
                yield b"event: over\ndata:\n\n"
                return
            sections, self.sections = self.sections, {}
            yield b"".join(sections.values())


class Live:
    """See the module.

    Args:
        look: makes the page's sections, by their names.
    """

    def __init__(self, look: Callable[[], Awaitable[Sections]]) -> None:
        self._look = look
        self._lock = asyncio.Lock()
        self._sections: dict[str, str] = {}
        self._looked = float("-inf")
        self._viewers: dict[Viewer, None] = {}
        self._somebody = asyncio.Event()
        #: How often the agent was looked at.
        self.looks = 0

    async def sections(self) -> Sections:
        """The page's sections as they are, or were at most `PAUSE` s ago."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._looked + PAUSE:
                self._looked = now
                self.looks += 1
                self._sections = dict(await self._look())
            return self._sections

    @property
    def viewers(self) -> int:
        """How many there are."""
        return len(self._viewers)

    @property
    def full(self) -> bool:
        """Whether nobody else may watch."""
        return self.viewers >= MOST

    async def add(self, viewer: Viewer) -> None:
        """Somebody watches from now on, and is given all there is."""
        self._viewers[viewer] = None
        self._somebody.set()
        sections = {"now": f"{time.time():.3f}", **await self.sections()}
        viewer.give({name: event(name, text) for name, text in sections.items()})

    def remove(self, viewer: Viewer) -> None:
        """It does not watch any more."""
        self._viewers.pop(viewer, None)
        if not self._viewers:
            self._somebody.clear()

    def end(self) -> None:
        """Nothing is to be seen any more."""
        for viewer in self._viewers:
            viewer.end()

    async def run(self) -> None:
        """Tell viewers what changes, until cancelled."""
        told: dict[str, str] = {}
        while True:
            await self._somebody.wait()
            try:
                sections = dict(await self.sections())
            except Exception:  # the boundary: viewers are told again, cards are nobody's concern here
                log.exception("a bug behind the page")
                sections = told
            changed = {name: event(name, text) for name, text in sections.items() if told.get(name) != text}
            told = sections
            if changed:
                for viewer in tuple(self._viewers):
                    viewer.give(changed)
                    await asyncio.sleep(0)  # its write is a pass of its own: cards come between
            await asyncio.sleep(PAUSE)


def event(name: str, text: str) -> bytes:
    """A server-sent event (HTML Living Standard, 9.2)."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines()) or "data:\n"
    return f"event: {name}\n{lines}\n".encode(errors="replace")
