"""A program on a terminal of its own, at which a test sits."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.lab.process import Command, LabError


class OnTerminal:
    """A program that has a terminal (as a shell in a window starts it); a context manager that ends it.

    Args:
        argv: the command line.
        env: its whole environment.
        within: what stands before the command line, such as `Computer.command` of nothing.
    """

    def __init__(self, argv: Command, env: Mapping[str, str] | None = None, within: Command = ()) -> None:
        self._ours, theirs = pty.openpty()
        self._seen = bytearray()
        self._read_up_to = 0
        words = [*map(str, within), "setsid", "--ctty", *map(str, argv)]
        environ = {**(os.environ if env is None else env), "TERM": "xterm"}
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := os.read(self._ours, 1 << 16):
                self._seen += data

    @property
    def text(self) -> str:
        """What is on the screen."""
        return self._seen.decode(errors="backslashreplace")

    def wait_for(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until something new on the screen matches."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.text[self._read_up_to :])) is None:
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout} s in vain: {pattern} in {self.text!r}")
            time.sleep(0.01)
        self._read_up_to += found.end()
        return found

    def enter(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)
        self._reader.join(5)
        os.close(self._ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
