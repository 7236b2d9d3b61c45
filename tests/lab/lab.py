"""The owner of computers, network and everything that runs there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.computer import Computer
from tests.lab.namespaces import is_root
from tests.lab.network import Network


class Lab:
    """A lab, empty at first; a context manager that clears it away.

    Attributes:
        folder: short, so that socket paths inside fit in 107 bytes.
        network: what joins the computers.
        computers: by name.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/var/tmp"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.network = Network()
        self._stack.callback(self.network.close)
        self.computers: dict[str, Computer] = {}

    def computer(self, name: str, quickack: bool = True) -> Computer:
        """A new computer, joined to the network; see `Computer`."""
        folder = self.folder / name
        folder.mkdir()
        computer = Computer(name, folder, None if is_root() else self.network.holder, quickack)
        self.own(computer)
        return computer

    def own(self, computer: Computer) -> None:
        """Join a computer to the network, and close it in the end."""
        self._stack.callback(computer.close)
        self.network.join(computer)
        self.computers[computer.name] = computer

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
