"""A real pcscd in a computer, with virtual readers that cards dial in to."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path

from tests.lab.computer import Computer
from tests.lab.process import LabError, wait_until

#: Where pcscd listens in its computer.
SOCKET = Path("/run/pcscd/pcscd.comm")
_FIRST_PORT = 35963
#: vpcd.
DRIVER = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"


def accepts(path: Path) -> bool:
    """Whether something listens on a Unix socket (a path as seen from outside)."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            folder = os.open(path.parent, os.O_PATH)  # the whole path may be too long for connect(2)
        except OSError:
            return False
        try:
            probe.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError:
            return False
        finally:
            os.close(folder)
        return True


class Pcscd:
    """pcscd in the foreground, with vpcd.

    Args:
        computer: where it runs.
        readers: how many virtual readers, an even number: vpcd has two slots an entry.
        name: the readers' friendly name; pcscd adds two numbers (see `reader`). Bytes that are not UTF-8 are lone
            surrogates, as Python has them in names of files.
        arguments: for pcscd.
        program: another pcscd than the system's.
        driver: its vpcd.
    """

    def __init__(
        self,
        computer: Computer,
        readers: int = 2,
        name: str = "Virtual PCD",
        arguments: tuple[str, ...] = (),
        program: tuple[str, ...] = ("pcscd",),
        driver: str | Path = DRIVER,
    ) -> None:
        if readers % 2:
            raise ValueError(readers)
        self.computer = computer
        self._name = name
        self._command = (*program, "-f", *arguments, "-c")
        self._configuration = computer.folder / "reader.conf.d"
        self._configuration.mkdir(exist_ok=True)
        for entry in range(readers // 2):
            port = f"0x{_FIRST_PORT + 2 * entry:X}"
            # the driver keeps its two slots in static variables: each entry needs a copy that is loaded apart
            copy = shutil.copy(driver, self._configuration.with_name(f"libifdvpcd{entry}.so"))
            (self._configuration / f"vpcd{entry}").write_text(
                f'FRIENDLYNAME "{self._friendly(entry)}"\n'
                f"DEVICENAME /dev/null:{port}\nLIBPATH {copy}\nCHANNELID {port}\n",
                errors="surrogateescape",
            )
        self.start()

    def start(self) -> None:
        """Start (again) and wait until it accepts connections."""
        self.process = self.computer.popen([*self._command, self._configuration])
        path = self.computer.outside(SOCKET)

        def ready() -> bool:
            if self.process.code is not None:
                raise LabError(f"pcscd ended: {self.process}")
            return accepts(path)

        wait_until(ready, "pcscd listens")

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.stop()

    def _friendly(self, entry: int) -> str:
        # pcscd gives readers of two drivers the same name and number when their friendly names are the same
        return f"{self._name} {entry}" if entry else self._name

    def reader(self, slot: int = 0) -> str:
        """The name of a virtual reader as PC/SC programs see it."""
        entry, side = divmod(slot, 2)
        return f"{self._friendly(entry)} 00 {side:02X}"

    @staticmethod
    def port(slot: int = 0) -> int:
        """The TCP port, on 127.0.0.1 of the computer, at which a card dials in to that reader."""
        return _FIRST_PORT + slot

    def wait_for_card(self, slot: int = 0) -> None:
        """Wait until pcscd says that a card is in and powered."""
        answer = self.computer.pcsc("\t".join(("wait", self.reader(slot), "present")))
        if "error" in answer:
            raise LabError(f"no card in {self.reader(slot)}: {answer}")

    def wait_for_no_card(self, slot: int = 0) -> None:
        """Wait until pcscd says that the reader is empty."""
        answer = self.computer.pcsc("\t".join(("wait", self.reader(slot), "absent")))
        if "error" in answer:
            raise LabError(f"still a card in {self.reader(slot)}: {answer}")
