"""A guard that runs on this computer, without ssh in between: its program in the shells that people have over there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

from cardferry.transports.lines import LineSplitter
from cardferry.transports.ssh import guard

#: Shells that stand in for ``sh`` over there; more are tried where they are installed.
SHELLS = ("dash", "bash", "mksh", "zsh", "busybox")


def installed(names: tuple[str, ...]) -> list[str]:
    """Those of the shells that this computer has."""
    return [name for name in names if shutil.which(name)]


class LocalGuard:
    """A guard with a terminal, as sshd gives it one.

    Args:
        folder: where a folder for its ``sh`` is made.
        sh: the shell that plays ``sh``.
        login: the shell that gets the command line, as an account's login shell does.
        env: added to the environment.
    """

    def __init__(
        self,
        folder: Path,
        sh: str = "dash",
        login: str = "sh",
        env: dict[str, str] | None = None,
        terminal: bool = True,
    ) -> None:
        self.mark = guard.new_mark()
        self._word = self.mark
        self.facts = guard.Facts()
        self._requests = 0
        self._lines: list[str] = []
        self._splitter = LineSplitter()
        shells = folder / f"shells-{sh}"
        shells.mkdir(exist_ok=True)
        path = shutil.which(sh)
        assert path is not None
        if not (shells / "sh").exists():
            (shells / "sh").symlink_to(path)
        environ = {**os.environ, "PATH": f"{shells}:{os.environ['PATH']}", "TMPDIR": str(folder), **(env or {})}
        ours, theirs = pty.openpty() if terminal else os.pipe()
        command = [login, "-c", guard.bootstrap(self.mark)]
        if terminal:
            self.process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
            )
            self._in = self._out = ours
            os.close(theirs)
        else:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
            )
            assert self.process.stdin is not None
            self._in, self._out = self.process.stdin.fileno(), ours
            os.close(theirs)
        self.expect("boot")
        self._word = guard.new_word()
        self.send(guard.program(self.mark, self._word))
        while (line := self.next_line()) != "ready":
            word, _, rest = line.partition(" ")
            assert word == "fact", line
            self.facts.learn(*rest.partition(" ")[::2])

    def send(self, data: bytes) -> None:
        os.write(self._in, data)

    def next_line(self, timeout: float = 20.0) -> str:
        """The next line that is meant for us."""
        deadline = time.monotonic() + timeout
        while True:
            while self._lines:
                _, found, text = self._lines.pop(0).partition(self._word + " ")
                if found:
                    return text
            left = deadline - time.monotonic()
            assert left > 0, "the guard says nothing"
            assert select.select([self._out], [], [], left)[0], "the guard says nothing"
            self._lines += self._splitter.feed(os.read(self._out, 65536))

    def expect(self, word: str) -> None:
        line = self.next_line()
        assert line == word, line

    def ask(self, verb: str, *arguments: str) -> guard.Reply:
        """Ask and wait for the answer."""
        self._requests += 1
        self.send(guard.request(self._requests, verb, *arguments))
        reply = guard.Reply()
        while True:
            number, _, text = self.next_line().partition(" ")
            assert number == str(self._requests)
            key, _, value = text.partition(" ")
            if key in ("done", "fail"):
                reply.failure = value
                return reply
            reply.values[key] = value

    def hang_up(self) -> None:
        """What happens when sshd ends."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        os.close(self._out)
        self._out = -1

    def close(self) -> None:
        if self._out >= 0:
            self.hang_up()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
