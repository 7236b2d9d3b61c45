"""A real sshd in a computer, and the files with which an unmodified ssh gets in."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.lab import process
from tests.lab.computer import Computer

PORT = 2222


class Sshd:
    """sshd with a host key and one allowed user key, on all the computer's addresses.

    Args:
        computer: where it runs.
        options: lines of sshd_config, such as ``{"StreamLocalBindUnlink": "yes"}``; they win over ours.
        env: environment of the sessions, beside PATH, XDG_RUNTIME_DIR and what sshd sets itself.
    """

    def __init__(
        self, computer: Computer, options: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.computer = computer
        self._folder = computer.folder / "ssh"
        self._folder.mkdir(mode=0o700)
        self.host_key = self._key("host_key")
        self.user_key = self._key("user_key")
        authorized = Path("/run/sshd/authorized_keys")  # where every user can read it
        computer.outside(authorized).write_text(self.user_key.with_suffix(".pub").read_text())
        session = {"PATH": computer.env["PATH"], "XDG_RUNTIME_DIR": str(computer.runtime), **(env or {})}
        settings = {
            **(options or {}),
            "Port": str(PORT),
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(authorized),
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": "100",
            "PrintMotd": "no",
            "SetEnv": " ".join(f"{name}={value}" for name, value in session.items()),
            "Subsystem": "sftp internal-sftp",
        }
        self._config = self._folder / "sshd_config"
        self._config.write_text("".join(f"{name} {value}\n" for name, value in {**settings, **(options or {})}.items()))
        self.start()

    def _key(self, name: str) -> Path:
        path = self._folder / name
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path]).check()
        path.chmod(0o600)
        return path

    def start(self) -> None:
        """Start (again) and wait until it listens."""
        self.process = self.computer.popen(["/usr/sbin/sshd", "-D", "-e", "-f", self._config])
        self.process.wait_for("Server listening", stream="err")

    def stop(self) -> None:
        """Stop listening; sessions that are open go on."""
        self.process.stop()

    def shut_down(self) -> None:
        """Stop, and end all sessions, as when the computer is switched off."""
        sessions = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.stop()
        for session in sessions:
            with suppress(ProcessLookupError):
                os.kill(int(session), signal.SIGKILL)

    def config(
        self,
        guest: Computer,
        alias: str = "",
        address: str = "",
        port: int = PORT,
        options: Mapping[str, str] | None = None,
    ) -> Path:
        """An ssh configuration for a guest: ``ssh -F config ALIAS`` logs in here.

        Args:
            guest: whose file it becomes.
            alias: the Host word, this computer's name by default.
            address: where to connect, for instance a `DelayedPort`; this computer by default.
            port: likewise.
            options: more lines for this host.
        """
        name = alias or self.computer.name
        known = guest.folder / f"known_hosts.{name}"
        known.write_text(f"{name} {self.host_key.with_suffix('.pub').read_text()}")
        lines = {
            "HostName": address or self.computer.address,
            "Port": str(port),
            "User": self.computer.user,
            "IdentityFile": str(self.user_key),
            "IdentitiesOnly": "yes",
            "HostKeyAlias": name,
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            **(options or {}),
        }
        path = guest.folder / f"ssh_config.{name}"
        path.write_text(f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in lines.items()))
        return path
