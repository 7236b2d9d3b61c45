"""systemd's real user manager in a computer of the lab, in a control group of its own; and its journal.

Where it starts it takes over its control group, so it gets one beside those of this machine, as the root of a
namespace. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.lab.computer import CARDFERRY, Computer
from tests.lab.process import LabError, Result, Running, wait_until

_START = """
echo $$ >"$1/cgroup.procs"
exec unshare --cgroup --mount sh -euc '
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec /lib/systemd/systemd --user
'
"""


def _cgroups() -> Path:
    """Where control groups of version 2 are."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(Path(words[1]) for words in mounts if words[2] == "cgroup2")


class UserSystemd:
    """The user manager of a computer's user; a context manager.

    Args:
        computer: where; what is mounted there later it does not see.
        env: what the manager has besides.

    Attributes:
        units: the folder of the account's own units.
    """

    def __init__(self, computer: Computer, env: Mapping[str, str] | None = None) -> None:
        self.computer = computer
        self._env = env or {}
        self._group = _cgroups() / f"cardferry-lab-{os.getpid()}-{computer.name}"
        self.units = computer.home / ".config" / "systemd" / "user"
        self._process: Running | None = None
        for folder in ("/run/systemd/system", "/run/systemd/journal"):
            computer.holder.ask("mkdir", folder, "755")
        self._journal = computer.popen(["/lib/systemd/systemd-journald"])
        wait_until(computer.outside("/run/systemd/journal/stdout").is_socket, "the journal listens")

    def boot(self) -> None:
        """Start it, and with it what is enabled."""
        self._group.mkdir(exist_ok=True)
        self._process = self.computer.popen(["sh", "-euc", _START, "sh", self._group], self._env)
        private = self.computer.outside(self.computer.runtime / "systemd" / "private")

        def running() -> bool:
            if self._process is not None and self._process.code is not None:
                raise LabError(f"no user manager: {self._process}")
            return private.is_socket() and self.systemctl("is-system-running").out.strip() in ("running", "degraded")

        wait_until(running, "the user manager runs")

    def halt(self) -> None:
        """Stop it, as a computer that is switched off does: its services are stopped in order."""
        if self._process is not None:
            self._process.stop(timeout=30)
            self._process = None

    def systemctl(self, *words: str) -> Result:
        """``systemctl --user``, whatever it says."""
        return self.computer.run(["systemctl", "--user", "--no-pager", *words])

    def cardferry(self, *words: str) -> Result:
        """A cardferry command, as a person types it."""
        return self.computer.run([CARDFERRY, *words])

    def setup(self, *words: str) -> Result:
        """``cardferry setup service ... --user``."""
        return self.cardferry("setup", "service", *words, "--user").check()

    def main_process(self, unit: str) -> int:
        """The process of a service that runs; 0 for none."""
        return int(self.systemctl("show", "--property=MainPID", "--value", unit).out)

    def wait_for(self, unit: str, state: str = "active") -> None:
        """Wait until a unit is in that state."""
        wait_until(lambda: self.systemctl("is-active", unit).out.strip() == state, f"{unit} is {state}", 30)

    def log(self) -> Iterator[dict[str, Any]]:
        """What services of cardferry have said: each entry of the journal."""
        words = ["journalctl", "-D", "/run/log/journal", "SYSLOG_IDENTIFIER=cardferry", "--output=json", "--no-pager"]
        yield from map(json.loads, self.computer.run(words).check().out.splitlines())

    def close(self) -> None:
        """End it, and remove its control group."""
        self.halt()
        self._journal.close()
        for folder, _, _ in os.walk(self._group, topdown=False):
            wait_until(lambda folder=folder: _removed(Path(folder)), f"nobody is in {folder}")  # type: ignore[misc]

    def __enter__(self) -> UserSystemd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
        return True
    for process in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    return False
