"""The terminal that this process runs in: a line that a person types there (termios(3), tty(4))."""

from __future__ import annotations

import asyncio
import atexit
import os
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

_TERMINAL: Final = "/dev/tty"
_LOCAL_MODES: Final = 3
#: Bytes of the longest line that is read.
_MOST: Final = 256


def in_foreground() -> bool:
    """Whether we have the terminal, and with it perhaps a person."""
    try:
        with _opened():
            return True
    except OSError:
        return False


@contextmanager
def _opened() -> Iterator[int]:
    """The terminal; raises `OSError` where there is none, or another job has it."""
    descriptor = os.open(_TERMINAL, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        if os.tcgetpgrp(descriptor) != os.getpgrp():
            raise BlockingIOError("another job has the terminal")
        yield descriptor
    finally:
        os.close(descriptor)


async def typed(question: str, secret: bool, wait: Callable[[asyncio.Future[bytes]], Awaitable[bytes]]) -> bytearray:
    """Ask a question on the terminal, and return the line that is typed; what was typed before is no answer.

    Args:
        secret: the line is not shown.
        wait: awaits it, for as long as it likes.

    Raises:
        OSError: there is no terminal, or another job has it.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def readable() -> None:
        try:
            data = os.read(descriptor, _MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # it is closed
        loop.remove_reader(descriptor)
        line.set_result(data)

    with _opened() as descriptor, _silent(descriptor, secret):
        os.write(descriptor, question.encode())
        loop.add_reader(descriptor, readable)
        try:
            return bytearray((await wait(line)).rstrip(b"\r\n"))
        finally:
            loop.remove_reader(descriptor)
            if secret or not line.done() or line.cancelled():
                os.write(descriptor, b"\n")


@contextmanager
def _silent(descriptor: int, secret: bool) -> Iterator[None]:
    """Without an echo for the block, and never longer than this process lives."""
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    silent[_LOCAL_MODES] |= termios.ICANON | termios.ISIG
    if secret:
        silent[_LOCAL_MODES] &= ~termios.ECHO

    def restore() -> None:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)

    atexit.register(restore)
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        restore()
        atexit.unregister(restore)
