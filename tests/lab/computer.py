"""A computer of the lab: own network, own mounts (`/run`, `/tmp`, home), own host name; its programs end with it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab import process
from tests.lab.namespaces import PLAIN_PYTHON, Holder, is_root, search_path
from tests.lab.process import LabError, Result, Running

REPOSITORY = Path(__file__).resolve().parents[2]
#: The cardferry that is being tested: of the environment that runs the tests.
CARDFERRY = Path(sys.prefix) / "bin" / "cardferry"
#: Somebody else, who can log in where the lab runs as root.
SECOND_USER, SECOND_UID = "alice", 1777
#: The first id that Debian gives to a person, and the one of ``nobody`` (adduser.conf(5)).
_FIRST_USER, _NOBODY = 1000, 65534
PCSC_CLIENT = Path(__file__).with_name("pcsc_client.py")


class Computer:
    """One computer.

    Args:
        name: its host name and the name of its folder: short, letters and digits.
        folder: an existing folder that becomes its own.
        within: see `Holder`.
        quickack: TCP over 127.0.0.1 acknowledges at once; vpcd needs it, other addresses keep their habits.

    Attributes:
        home: its home folder; the path is the same inside and outside.
        runtime: `XDG_RUNTIME_DIR`, a path inside (see `outside`).
        address: its IPv4 address in the `Network`, empty before it is plugged in.
    """

    def __init__(self, name: str, folder: Path, within: Holder | None = None, quickack: bool = True) -> None:
        self.name = name
        self.folder = folder
        self.home = folder / "home"
        self.runtime = Path(f"/run/user/{os.geteuid()}")
        self.address = ""
        self._stack = contextlib.ExitStack()
        self.holder = Holder(within)
        self._stack.callback(self.holder.close)
        try:
            self._furnish(quickack)
        except BaseException:
            self._stack.close()
            raise

    def _furnish(self, quickack: bool) -> None:
        holder = self.holder
        holder.ask("hostname", self.name)
        self.home.mkdir(mode=0o700)
        private_tmp = self.folder / "tmp"
        private_tmp.mkdir()
        private_tmp.chmod(0o1777)
        for kept in {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}:
            if kept.is_relative_to("/tmp"):
                shown = private_tmp / kept.relative_to("/tmp")
                shown.mkdir(parents=True, exist_ok=True)
                holder.mount_bind(kept, shown)
        holder.mount_bind(private_tmp, "/tmp")
        holder.mount_tmpfs("/run")
        for path, mode in (("pcscd", "755"), ("sshd", "755"), ("lock", "1777"), (f"user/{os.geteuid()}", "700")):
            holder.ask("mkdir", f"/run/{path}", mode)
        self._replace_accounts()
        if Path("/dev/bus/usb").is_dir():
            holder.mount_tmpfs("/dev/bus/usb")  # real readers stay with their owner
        holder.ip("link set lo up")
        if quickack:
            for addresses in ("127.0.0.0/8", "127.0.0.1"):
                holder.ip(
                    f"route replace table local local {addresses} dev lo proto kernel scope host "
                    "src 127.0.0.1 quickack 1"
                )

    def _replace_accounts(self) -> None:
        """The user's home is this computer's; root is not locked, so that sshd lets it in with a key.

        Of this machine's accounts there are only the system's own: what its users have, or are called, changes nothing.
        """
        user = pwd.getpwuid(os.geteuid())
        others = [
            f"{name}:x:{uid}:{rest}"
            for name, _, uid, rest in (line.split(":", 3) for line in Path("/etc/passwd").read_text().splitlines())
            if (int(uid) < _FIRST_USER or int(uid) == _NOBODY) and name not in (user.pw_name, SECOND_USER)
        ]
        own = f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}:{user.pw_gecos}:{self.home}:/bin/bash"
        accounts = self.folder / "passwd"
        second = f"{SECOND_USER}:x:{SECOND_UID}:{SECOND_UID}::/tmp:/bin/bash"
        accounts.write_text("\n".join([own, second, *others]) + "\n")
        self.holder.mount_bind(accounts, "/etc/passwd")
        if not is_root():
            self._own_terminals()
        else:
            shadow = self.folder / "shadow"
            shadow.write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in (user.pw_name, SECOND_USER)))
            shadow.chmod(0o600)
            self.holder.mount_bind(shadow, "/etc/shadow")

    def _own_terminals(self) -> None:
        """Terminals that sshd can hand out in a user namespace, where the group ``tty`` has no number."""
        lines = Path("/etc/group").read_text().splitlines()
        groups = self.folder / "group"
        groups.write_text("".join(f"{line}\n" for line in lines if not line.startswith("tty:")))
        self.holder.mount_bind(groups, "/etc/group")
        self.holder.ask("mount", "devpts", "/dev/pts", "devpts", "0", "ptmxmode=0666,mode=0620")
        self.holder.mount_bind("/dev/pts/ptmx", "/dev/ptmx")

    @property
    def user(self) -> str:
        """The name of the user everything runs as."""
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def env(self) -> dict[str, str]:
        """The environment that programs get, unless told otherwise."""
        return {
            "PATH": search_path(),
            "HOME": str(self.home),
            "USER": self.user,
            "LOGNAME": self.user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    def outside(self, path: str | Path) -> Path:
        """Where a path of this computer is found from outside (to look at files in its `/run` and `/tmp`)."""
        return Path(f"/proc/{self.holder.pid}/root") / Path(path).relative_to("/")

    def hide(self, path: str | Path) -> None:
        """Make a folder look empty in this computer."""
        self.holder.mount_tmpfs(path)

    def hide_cardferry(self) -> None:
        """From now on cardferry, its sources and its Python environment do not exist in this computer."""
        self.hide(sys.prefix)
        if (REPOSITORY / "src").is_dir():
            self.hide(REPOSITORY / "src")
        if Path(CARDFERRY).exists() and self.run(["test", "-e", CARDFERRY]).code == 0:
            raise LabError("cardferry is still there")

    def command(self, argv: Sequence[str | Path], mounts: bool = True) -> list[str]:
        """The command line that runs ``argv`` in this computer, for those who start processes themselves."""
        return self.holder.enter(argv, mounts, cwd=self.home if mounts else None)

    def run(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        stdin: str | None = None,
    ) -> Result:
        """Run a program here to its end; ``env`` adds to `Computer.env`."""
        return process.run(self.command(argv), {**self.env, **(env or {})}, timeout, stdin)

    def popen(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        mounts: bool = True,
    ) -> Running:
        """Start a program here; it is ended with the computer at the latest.

        Args:
            env: adds to `Computer.env`.
            stdin: keep a pipe to its standard input.
            mounts: False runs it beside the computer, with the computer's network only.
        """
        running = Running(self.command(argv, mounts), {**self.env, **(env or {})}, stdin=stdin)
        return self._stack.enter_context(running)

    def pcsc(self, words: str, socket: str | Path | None = None, timeout: float = 60.0) -> dict[str, Any]:
        """Run `pcsc_client.py` here with the system's Python and libpcsclite; returns its JSON line.

        Args:
            words: its arguments, see there.
            socket: `PCSCLITE_CSOCK_NAME`; None is pcscd's own.
        """
        env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
        done = self.run([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t" if "\t" in words else None)], env, timeout)
        try:
            answer: dict[str, Any] = json.loads(done.out)
        except json.JSONDecodeError:
            raise LabError(f"pcsc_client failed: {done}") from None
        return answer

    def close(self) -> None:
        """End everything that runs here."""
        self._stack.close()
