"""A listening socket whose queue of connections is full."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """Listen at ``path`` for the block, with as many callers waiting as may wait."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fspath(path))
        listening.listen(0)
        while True:
            caller = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            try:
                caller.connect(os.fspath(path))
            except BlockingIOError:
                break
        yield listening
