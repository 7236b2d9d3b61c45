"""Processes of the lab: started, listened to line by line, and always ended by their id."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

#: A command line.
Command = Sequence[str | Path]
T = TypeVar("T")


class LabError(AssertionError):
    """Something in the lab did not happen; the text holds all that is known about it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command left: its exit code and its output as text."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def all(self) -> str:
        """Both outputs, for asserting about either."""
        return self.out + self.err

    def check(self) -> Self:
        """Raise `LabError` unless the exit code is 0."""
        if self.code != 0:
            raise LabError(f"exit code {self.code} from {' '.join(self.argv)}\n{self.out}\n{self.err}")
        return self


def wait_until(condition: Callable[[], T], what: str, timeout: float = 20.0) -> T:
    """Ask ``condition`` again and again until it is true; for what offers nothing to wait on.

    Args:
        condition: called every 10 ms; its first true value is returned.
        what: named in the error.
        timeout: in s.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout} s in vain: {what}")
        time.sleep(0.01)


class Lines:
    """The lines that a stream has given so far; a reader thread adds to them and wakes who waits."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def text(self) -> str:
        """All lines so far."""
        with self._news:
            return "\n".join(self._lines)

    def find(self, pattern: str, start: int, timeout: float) -> tuple[int, re.Match[str]] | None:
        """The first line from number ``start`` on that matches, waiting up to ``timeout`` s; None if none comes."""
        deadline = time.monotonic() + timeout
        seen = start
        with self._news:
            while True:
                while seen < len(self._lines):
                    match = re.search(pattern, self._lines[seen])
                    seen += 1
                    if match:
                        return seen, match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._news.wait(left)

    def join(self) -> None:
        """Wait until the stream has ended, 1 s at most: a process that was left behind may keep it open."""
        self._thread.join(timeout=1)

    def close(self) -> None:
        """Close the stream if it has ended; otherwise its reader thread still has it."""
        if not self._thread.is_alive():
            self._stream.close()


class Running:
    """A process that runs beside the test; a context manager that ends it.

    Args:
        argv: the whole command.
        env: its whole environment.
        stdin: keep a pipe to write to.
    """

    def __init__(
        self,
        argv: Command,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: bool = False,
    ) -> None:
        self.argv = tuple(str(word) for word in argv)
        self._process = subprocess.Popen(
            self.argv,
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.out = Lines(self._process.stdout)
        self.err = Lines(self._process.stderr)
        self._read_up_to = {"out": 0, "err": 0}

    @property
    def pid(self) -> int:
        """The process id on this machine."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} (exit code {self.code})\nout: {self.out.text}\nerr: {self.err.text}"

    def wait_for(self, pattern: str, stream: str = "out", timeout: float = 20.0) -> re.Match[str]:
        """Wait for the next line that matches the regular expression, after the last one that was waited for."""
        lines = self.out if stream == "out" else self.err
        found = lines.find(pattern, self._read_up_to[stream], timeout)
        if found is None:
            raise LabError(f"no line {pattern!r} from {self}")
        self._read_up_to[stream] = found[0]
        return found[1]

    def write(self, text: str) -> None:
        """Send text to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> Result:
        """Wait until it has ended by itself."""
        start = time.monotonic()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"still running after {timeout} s: {self}") from None
        self.out.join()
        self.err.join()
        return Result(self.argv, code, self.out.text, self.err.text, time.monotonic() - start)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> Result:
        """Send a signal and wait for the end."""
        if self.code is None:
            self.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started and left in its session's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it: politely first."""
        if self.code is None:
            self.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self.out.close()
        self.err.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run(
    argv: Command,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    stdin: str | None = None,
    cwd: str | Path | None = None,
) -> Result:
    """Run a command to its end. `LabError` when it takes longer than ``timeout`` s (it is killed then)."""
    words = tuple(str(word) for word in argv)
    start = time.monotonic()
    process = subprocess.Popen(
        words,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise LabError(f"{' '.join(words)} took over {timeout} s\n{out}\n{err}") from None
    return Result(words, process.returncode, out, err, time.monotonic() - start)
