"""Virtual machines on a computer whose kernel lets nobody be one: Unix sockets that take vsock addresses."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from cardferry.transports.vsock import LOOPBACK, VsockAddress

ADDRESS = VsockAddress(LOOPBACK, 35960)


class _MachineSocket(socket.socket):
    folder: Path

    def _path(self, address: tuple[int, int]) -> str:
        return os.fspath(self.folder / "{}-{}".format(*address))

    def bind(self, address: Any) -> None:
        super().bind(self._path(address))

    def connect(self, address: Any) -> None:
        super().connect(self._path(address))


class Machines:
    """Makes their sockets.

    Args:
        folder: where a machine's port is a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self) -> socket.socket:
        made = _MachineSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.folder = self._folder
        return made


def loopback() -> bool:
    """Whether this kernel can be its own machine."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, 0xFFFF_FFFF))
        except OSError:
            return False
        return True
