"""A process that listens at a Unix socket and was stopped, as by Ctrl-Z."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LISTEN = """
import os, signal, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def stopped(path: Path) -> Iterator[int]:
    """The process, for the block; its number."""
    with subprocess.Popen([sys.executable, "-S", "-c", _LISTEN, str(path)]) as process:
        try:
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            yield process.pid
        finally:
            process.kill()
