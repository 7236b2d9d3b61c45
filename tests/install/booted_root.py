"""A bare root of a Debian release that has booted: its own systemd is process 1 there, without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from tests.lab.booted import MASKED, new_group, remove_group
from tests.lab.process import Result, Running, run, wait_until

#: Runs in new namespaces; the folder becomes the root of all that is there.
_BOOT: Final = """\
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount --rbind /dev dev
pivot_root . mnt
umount -l mnt
echo booting
exec env -i container=lab PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --show-status=no --log-target=journal
"""


class BootedRoot:
    """The root, booted; a context manager that ends everything that runs there.

    Args:
        folder: the root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._init = 0

    def __enter__(self) -> Self:
        units = self._folder / "etc" / "systemd" / "system"
        for unit in MASKED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
        self._group = new_group(f"root-{os.getpid()}")
        spaces = ["--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup", "--kill-child"]
        boot = ["unshare", *spaces, "sh", "-c", _BOOT, str(self._folder)]
        join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self._group), *boot]
        self._unshare = Running(join, {"PATH": os.environ["PATH"]})
        self._unshare.wait_for("^booting$")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._init = int(wait_until(children.read_text, "there is a process 1").split()[0])
        wait_until(
            lambda: self.run("systemctl", "is-system-running").out.strip() in ("running", "degraded"), "it is up", 60
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._unshare.kill()
        remove_group(self._group)

    def run(self, *words: str) -> Result:
        """Run a command there, to its end."""
        enter = ["nsenter", f"--target={self._init}", "--all", "--root", "--wd=/", "--"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        return run([*enter, *clean, *words], timeout=120)

    def units(self) -> list[str]:
        """The administrator's units, and how those of smart cards do."""
        listed = sorted(str(path) for path in (self._folder / "etc/systemd/system").rglob("*"))
        asked = [self.run("systemctl", "is-active", unit).out.strip() for unit in ("pcscd.socket", "cardferry-system")]
        listening = self.run("systemctl", "show", "--property=Listen", "pcscd.socket").out.strip()
        return [*listed, *asked, listening]
