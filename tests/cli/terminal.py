"""Commands at a terminal, and whether what they print leaves it alone."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

#: What a peer may say: a title, reverse video, "clear" in C1, text that runs backwards, lines of its own, markup.
EVIL = "\x1b]0;pwned\x07\x1b[7m\x9b2J\u202egnp\u2066\r\nerror: forged\x7f[blink]B[/blink]"
#: What is seen of it.
SEEN = r"\x1b]0;pwned\x07\x1b[7m\x9b2J\u202egnp\u2066\r\nerror: forged\x7f[blink]B[/blink]"
#: The colours of our own marks and headings.
_OURS = re.compile(r"\x1b\[(0|1|31|32|33)m")
_LONGEST = 2000


class Said:
    """What a command prints at a terminal, byte for byte, its complaints as well."""

    def __init__(self, words: tuple[str, ...], environ: dict[str, str]) -> None:
        self.words = words
        self._environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "2000", **environ}
        self._ours = -1
        self.bytes = b""
        self.ended = asyncio.Event()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self._ours, theirs = pty.openpty()
        tty.setraw(theirs)
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cardferry", *self.words), stdin=theirs, stdout=theirs, stderr=theirs,
            env=self._environ, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def _read(self) -> None:
        try:
            self.bytes += os.read(self._ours, 1 << 16)
        except BlockingIOError:
            return
        except OSError:  # nobody has it open any more
            asyncio.get_running_loop().remove_reader(self._ours)
            os.close(self._ours)
            self.ended.set()

    async def says(self, what: str) -> None:
        """Wait until it has said that."""
        async with asyncio.timeout(30):
            while what.encode() not in self.bytes:
                assert not self.ended.is_set(), self.bytes
                await asyncio.sleep(0.005)

    async def end(self) -> str:
        """Wait for its end; what it has said, if that was `harmless`."""
        async with asyncio.timeout(30):
            await self.process.wait()
            await self.ended.wait()
        return harmless(self.bytes)

    async def stop(self) -> str:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        return await self.end()


def harmless(output: bytes) -> str:
    """The text, if all that a terminal does with it is to show it, in lines that the command meant to be lines."""
    text = _OURS.sub("", output.decode())
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    if not text.startswith("["):  # JSON is as long as what it tells
        assert [
            line[:99] for line in text.split("\n") if line.startswith("error: forged") or len(line) > _LONGEST
        ] == []
    return text


class Commands:
    """A user's commands; the runtime folder is the test's."""

    def __init__(self, runtime: Path) -> None:
        self.environ = {"XDG_RUNTIME_DIR": str(runtime)}
        self.folder = runtime / "cardferry"

    async def __call__(self, *words: str) -> str:
        """What the command says, from its start to its end."""
        one = Said(words, self.environ)
        await one.start()
        try:
            return await one.end()
        finally:
            await one.stop()

    @asynccontextmanager
    async def beside(self, *words: str, until: str) -> AsyncIterator[Said]:
        """A command that runs for the block; it has said ``until`` when the block begins."""
        one = Said(words, self.environ)
        await one.start()
        try:
            await one.says(until)
            yield one
        finally:
            await one.stop()

    async def listings(self) -> str:
        """What all commands say that list what runs, as people see it."""
        return "".join([await self("status"), await self("readers")])

    async def json(self) -> str:
        """Likewise, for programs."""
        texts = [await self("status", "--json"), await self("readers", "--json")]
        assert all(text.isascii() for text in texts)
        return texts[0]
