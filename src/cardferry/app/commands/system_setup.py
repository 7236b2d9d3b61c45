"""``setup system``: the units that put cardferry in pcscd's place for all programs, and how they go away again.

Three files, all in ``/etc/systemd/system``, and nothing else: two units of ours, and a drop-in by which the socket of
pcscd moves behind us (systemd.unit(5)). The drop-in is written where no pcscd is as well: one that is installed later
comes up behind us. What was running before is written down in it, so that `remove` leaves things as they were.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cardferry
from cardferry.app.commands.system import BEHIND, PUBLIC
from cardferry.app.runtime.paths import SYSTEM_FOLDER
from cardferry.pcsc.errors import UserError
from cardferry.policy import polkit
from cardferry.transports.folders import check_trusted
from cardferry.transports.listening import listener

log = logging.getLogger(__name__)

NAME: Final = "cardferry-system"
_UNITS: Final = Path("/etc/systemd/system")
_SOCKET: Final = f"""\
# Made by `cardferry setup system`, undone by `cardferry setup system --remove`.
[Unit]
Description=cardferry: smart card readers for every program

[Socket]
ListenStream={PUBLIC}
SocketMode=0666

[Install]
WantedBy=sockets.target
"""
_SERVICE: Final = f"""\
# Made by `cardferry setup system`, undone by `cardferry setup system --remove`.
[Unit]
Description=cardferry: smart card readers for every program
Documentation=man:cardferry-setup(1)
Requires={NAME}.socket
Wants=pcscd.socket
After={NAME}.socket pcscd.socket network.target dbus.service

[Service]
Type=notify
WatchdogSec=60
WatchdogSignal=SIGKILL
ExecStart=COMMAND
ExecReload=/bin/kill -HUP $MAINPID
Environment=XDG_RUNTIME_DIR={SYSTEM_FOLDER}
RuntimeDirectory={SYSTEM_FOLDER.name}
Restart=always
RestartSec=5
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""
_DROP_IN: Final = f"""\
# Made by `cardferry setup system`, undone by `cardferry setup system --remove`:
# cardferry is at {PUBLIC}, pcscd behind it, where root alone may go.
# It was BEFORE.
[Socket]
ListenStream=
ListenStream={BEHIND}
SocketMode=0600
"""
_BEFORE: Final = re.compile(r"^# It was (active|inactive)\.$", re.MULTILINE)
_FOR_ALL: Final = "install it for the whole computer, as root: make deb, or uv tool install"

#: Runs ``systemctl WORDS``; returns what it prints.
Systemctl = Callable[..., str]


class SystemSetupError(UserError):
    """It cannot be set up here."""

    exit_code = 58


def systemctl(*words: str, check: bool = True) -> str:
    """Ask systemd; raises `SystemSetupError` in its own words when it does not do it."""
    done = subprocess.run(  # noqa: S603 - our own words
        ["/usr/bin/env", "systemctl", *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SystemSetupError(f"systemctl {' '.join(words)}: {said}", f"see: journalctl -u {NAME}")
    return done.stdout.strip()


@dataclass(frozen=True)
class SystemSetup:
    """The files and units.

    Attributes:
        units: where systemd has the administrator's units.
        systemctl: asks systemd.
        running: says whether this computer runs systemd.
        has_pcscd: whether this computer has a pcscd.
    """

    units: Path = _UNITS
    systemctl: Systemctl = systemctl
    running: Callable[[], bool] = Path("/run/systemd/system").is_dir
    has_pcscd: Callable[[], bool] = field(default=lambda: shutil.which("pcscd", path="/usr/sbin:/usr/bin") is not None)

    @property
    def _drop_in(self) -> Path:
        return self.units / "pcscd.socket.d" / "cardferry.conf"

    @staticmethod
    def command(hosts: Sequence[str]) -> list[str]:
        """What the service runs: this very cardferry."""
        return [sys.executable, "-m", "cardferry", "setup", "system", "--serve", *hosts]

    def files(self, command: Sequence[str], before: str = "inactive") -> dict[Path, str]:
        """What is written.

        Args:
            command: what the service runs.
            before: what pcscd's socket was.
        """
        words = " ".join(_quoted(word) for word in command)
        return {
            self._drop_in: _DROP_IN.replace("BEFORE", before),
            self.units / f"{NAME}.socket": _SOCKET,
            self.units / f"{NAME}.service": _SERVICE.replace("COMMAND", words),
        }

    def check(self, hosts: Sequence[str]) -> None:
        """See that it can be done.

        Raises:
            UserError: it cannot, or should not.
        """
        if not self.running():
            raise SystemSetupError(
                "systemd does not run here, and this is about its units",
                "without it, serve one account: cardferry attach HOST",
            )
        if not hosts and not self.has_pcscd():
            raise SystemSetupError(
                "there is no pcscd here, and no HOST was named: programs would find nothing",
                "name the computer that has it: cardferry setup system HOST; only if it is this one: apt install pcscd",
            )
        for program in (Path(cardferry.__file__), Path(sys.executable), Path(sys.executable).resolve()):
            check_trusted(program.parent, _FOR_ALL)  # root will run it
        if polkit.ACTIONS.exists() and not polkit.installed():
            raise SystemSetupError(
                "polkit says who may use cards here, and dbus-fast, which asks it, is not installed",
                "install it with the extra polkit, as in: uv tool install './cardferry[polkit]'",
            )

    def install(self, hosts: Sequence[str]) -> None:
        """Write the files, and have systemd go over to them; raises `UserError` when it cannot be done."""
        self.check(hosts)
        before = self._was() or self._state("pcscd.socket")
        self.systemctl("stop", "pcscd.service", "pcscd.socket", check=False)
        if self._was() is None and (who := listener(PUBLIC)) is not None:
            if before == "active":
                self.systemctl("start", "pcscd.socket", check=False)
            raise SystemSetupError(f"{PUBLIC} is in use by {who}", "end it, and try again")
        for path, text in self.files(self.command(hosts), before).items():
            path.parent.mkdir(exist_ok=True, mode=0o755)
            path.write_text(text)
            path.chmod(0o644)
        self.systemctl("daemon-reload")
        if self.has_pcscd():
            self.systemctl("start", "pcscd.socket")
        self.systemctl("enable", f"{NAME}.socket", f"{NAME}.service")
        self.systemctl("restart", f"{NAME}.socket", f"{NAME}.service")

    def remove(self) -> bool:
        """Undo it; returns whether there was anything to undo. Works without systemd as well, in a chroot."""
        before = self._was()
        files = [path for path in self.files(()) if path.exists()]
        if not files:
            return False
        if self.running():
            self.systemctl("disable", "--now", f"{NAME}.service", f"{NAME}.socket", check=False)
            self.systemctl("stop", "pcscd.service", "pcscd.socket", check=False)
        for path in files:
            path.unlink()
        for folder in {path.parent for path in files} - {self.units}:
            if not any(folder.iterdir()):
                folder.rmdir()
        for link in self.units.glob(f"*.wants/{NAME}.*"):  # where no systemd was there to disable it
            link.unlink()
        for left in (PUBLIC, BEHIND):  # nobody is asked later: who connects to pcscd's socket starts it
            if left.is_socket() and listener(left) is None:
                left.unlink()
        if self.running():
            self.systemctl("daemon-reload")
            self.systemctl("reset-failed", f"{NAME}.service", f"{NAME}.socket", check=False)
            if before == "active":
                self.systemctl("start", "pcscd.socket", check=False)
        return True

    def _state(self, unit: str) -> str:
        return "active" if self.systemctl("is-active", unit, check=False) == "active" else "inactive"

    def _was(self) -> str | None:
        """What pcscd's socket was before an earlier setup; None without one."""
        try:
            found = _BEFORE.search(self._drop_in.read_text())
        except FileNotFoundError:
            return None
        return "inactive" if found is None else found[1]


def _quoted(word: str) -> str:
    """A word as systemd.service(5) reads it in a command line."""
    plain = re.fullmatch(r"[A-Za-z0-9_@:./,+=-]+", word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return word if plain else f'"{escaped}"'
