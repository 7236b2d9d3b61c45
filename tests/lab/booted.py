"""A computer of the lab that has booted: a real systemd is its process 1, with accounts' sessions, D-Bus and units.

It has this machine's files, a copy of its ``/etc``, and a ``/var`` and ``/run`` of its own; all accounts can run
cardferry there. Units that this machine has enabled are not; what boots is ``multi-user.target`` with what the test
enables. Needs root.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.computer import REPOSITORY, Computer
from tests.lab.lab import Lab
from tests.lab.link import install_cardferry
from tests.lab.pcscd import Pcscd
from tests.lab.process import LabError, Result, Running, wait_until

#: Runs in the computer's namespaces, and new ones for processes, mounts and control groups.
_BOOT = """\
set -e
folder=$1 runtime=$2
shift 2
mount --make-rprivate /
mount --bind "$folder/etc" /etc
mount --bind "$folder/actions" /usr/share/polkit-1/actions
for kept; do
  case "$kept" in /var/*|/root/*) mkdir -p "$folder$kept" && mount --rbind "$kept" "$folder$kept" ;; esac
done
[ ! -d "$folder/root" ] || mount --rbind "$folder/root" /root # nobody else may go in there otherwise
mount --rbind "$folder/var" /var # from now on the folder is another one
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd "$runtime" && chmod 700 "$runtime" && mkdir -m 1777 /run/lock
mount -t proc proc /proc
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo booting
exec env -i container=lab PATH="$PATH" /lib/systemd/systemd --system --show-status=no --log-target=journal
"""
#: They do nothing for a test, or something to this machine's files.
MASKED = (
    "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer",
    "systemd-remount-fs.service", "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-sysctl.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-modules-load.service", "getty.target",
    "systemd-timesyncd.service", "systemd-update-utmp.service", "systemd-random-seed.service", "ssh.service",
    "systemd-machine-id-commit.service", "systemd-firstboot.service", "systemd-sysusers.service", "dev-mqueue.mount",
    "dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
)  # fmt: skip


class Booted(Computer):
    """A computer whose processes are systemd's.

    Attributes:
        etc: its ``/etc``, as seen from outside.
        actions: what its polkit knows of (``/usr/share/polkit-1/actions``), likewise.
    """

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self._init: int = 0
        self.etc, self.actions = folder / "etc", folder / "actions"
        self._group = Path()
        self._furnish_for_systemd()

    def _furnish_for_systemd(self) -> None:
        super().run(["cp", "-a", "/etc", self.etc]).check()
        super().run(["cp", "-a", "/usr/share/polkit-1/actions", self.actions]).check()
        units = self.etc / "systemd" / "system"
        for link in units.glob("*.wants/*"):
            link.unlink()
        for folder in units.glob("*.wants"):
            folder.rmdir()
        for unit in MASKED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
        (self.etc / "machine-id").write_text(os.urandom(16).hex() + "\n")
        var = self.folder / "var"
        for path in ("lib/systemd", "lib/dbus", "lib/private", "log", "cache/private", "spool/cron/crontabs", "tmp"):
            (var / path).mkdir(parents=True)
        for name in ("lib/private", "cache/private"):
            (var / name).chmod(0o700)
        (var / "run").symlink_to("/run")

    def boot(self) -> None:
        """Start systemd, and wait until it has started everything."""
        self._group = new_group(f"lab-{os.getpid()}-{self.name}")
        kept = (self.folder.parent, REPOSITORY, sys.prefix, sys.base_prefix)
        spaces = ["--mount", "--pid", "--fork", "--ipc", "--cgroup", "--kill-child"]
        arguments = (self.folder, self.runtime, *kept)
        words = ["unshare", *spaces, "sh", "-c", _BOOT, "boot", *map(str, arguments)]
        join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self._group), *words]
        self._unshare = Running(super().command(join), self.env)
        self._stack.enter_context(self._unshare)
        self._unshare.wait_for("^booting$")
        self._init = wait_until(self._find_init, "systemd is there")
        wait_until(self._is_up, "systemd has booted", timeout=60)

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        if len(children) != 1:
            raise LabError(f"no systemd: {self._unshare}")
        return int(children[0]) if Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n" else 0

    def _is_up(self) -> bool:
        return self.run(["systemctl", "is-system-running"]).out.strip() in ("running", "degraded")

    def shut_down(self) -> None:
        """Stop all units, in order; `boot` starts them again."""
        self.run(["systemctl", "poweroff"])
        self._unshare.wait(60)
        self._init = 0
        remove_group(self._group)

    def command(self, argv: Sequence[str | Path], mounts: bool = True) -> list[str]:
        """The command line that runs ``argv`` beside systemd's units."""
        if not self._init or not mounts:
            return super().command(argv, mounts)
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup"]
        # nsenter stays, as the parent of what it runs: whoever ends it means that
        words = ["setpriv", "--pdeathsig", "TERM", "--", *(str(word) for word in argv)]
        return ["nsenter", f"--target={self._init}", *spaces, "--wd=/", "--", *words]

    def outside(self, path: str | Path) -> Path:
        """See `Computer.outside`."""
        return Path(f"/proc/{self._init or self.holder.pid}/root") / Path(path).relative_to("/")

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run(["journalctl", "--no-pager", "-u", unit, "-o", "cat"]).out

    def unit(self, name: str, *words: str | Path, properties: Sequence[str] = ()) -> Result:
        """Run a command as a service of its own, to its end."""
        options = [f"--property={one}" for one in properties]
        return self.run(
            ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}", *options, "--", *words]
        )

    def close(self) -> None:
        """End everything that runs here."""
        if self._init:
            self._unshare.kill()
            remove_group(self._group)
        super().close()


def booted(lab: Lab, name: str) -> Booted:
    """A new computer of the lab that has booted, joined to its network; everybody there finds cardferry."""
    folder = lab.folder / name
    folder.mkdir()
    computer = Booted(name, folder)
    lab.own(computer)
    install_cardferry(computer)
    computer.boot()
    return computer


def _groups() -> Path:
    """Where the one hierarchy of control groups is (cgroups(7))."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise LabError("no cgroup2 is mounted here: mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def new_group(name: str) -> Path:
    """A new control group of that name."""
    path = _groups() / name
    path.mkdir()
    return path


def remove_group(path: Path) -> None:
    """Remove a control group, once its processes have gone."""
    if path.exists():
        wait_until(lambda: not any(_read(each) for each in path.rglob("cgroup.procs")), "its processes have gone")
        wait_until(lambda: _removed(path), f"{path} can be removed")


def _removed(path: Path) -> bool:
    """Remove a tree of control groups; a process that is listed no more keeps its own busy until it has ended."""
    try:
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)  # noqa: PTH106 - as os.walk gives it
    except OSError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class UnitPcscd(Pcscd):
    """The pcscd of a booted computer, with vpcd's reader as Debian has it; systemd starts it."""

    def __init__(self, computer: Booted) -> None:
        self.computer = computer
        self._name = "Virtual PCD"
        self.start()

    def start(self) -> None:
        """Start it now: a card cannot dial in before."""
        self.computer.run(["systemctl", "start", "pcscd.service"]).check()
