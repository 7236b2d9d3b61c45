"""The demo's two computers, made from what this machine has.

Each part is the real one where it is installed, and an embedded one where not; `Stage.cast` says which:

- the *computers* are network and mount namespaces (root), or two folders on this one;
- the *host's resource manager* is a real pcscd with a virtual reader (root, pcscd, vsmartcard-vpcd), or cardferry;
- the *connection* is a real ssh to a real sshd, or the socket itself.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from cardferry.pcsc.errors import UserError

_VPCD = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_PCSCD_SOCKET = Path("/run/pcscd/pcscd.comm")
_VPCD_PORT = 35963
_SSH_PORT = 2222
_HOST_ADDRESS, _GUEST_ADDRESS = "192.0.2.1", "192.0.2.2"  # TEST-NET-1 (RFC 5737)
_CONNECTION = "the connection"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class DemoError(UserError):
    """A part of the demo did not start, or a step failed.

    Attributes:
        cause: what that part has said of it, in one line.
    """

    exit_code = 50
    cause = ""


def program(name: str) -> str | None:
    """The path of an installed program, also of one for administrators."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def cardferry() -> list[str]:
    """The command line that starts this very cardferry."""
    return [sys.executable, "-m", "cardferry"]


@dataclass(slots=True)
class Computer:
    """One of the two.

    Attributes:
        name: ``host`` or ``guest``.
        folder: its own.
        address: where the other finds it.
        enter: words before a command that make it run there; empty when it is this computer.
        environment: of what runs there.
    """

    name: str
    folder: Path
    address: str = "127.0.0.1"
    enter: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, command: Sequence[str | Path], **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program there to its end; at most 60 s."""
        return subprocess.run(
            [*self.enter, *map(str, command)],
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.folder,
            timeout=60,
            check=False,
        )


class Stage:
    """Builds the two computers; a context manager that clears them away.

    Attributes:
        cast: what plays which part, as pairs of words.
        host, guest: the computers.
        source: what ``cardferry attach`` is given: words of a command line.
        plain: words of the plain ``ssh -N -L`` for comparison, without the forwarding itself; None without ssh.
        pcscd: where the host's resource manager listens.
    """

    def __init__(self) -> None:
        self._ends = contextlib.ExitStack()
        self.cast: list[tuple[str, str]] = []
        self.plain: list[str] | None = None
        self.source: list[str] = []
        self.pcscd = _PCSCD_SOCKET
        self.host = self.guest = Computer("nowhere", Path())

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def _build(self) -> None:
        base = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="cardferry-demo-")))
        self.host, self.guest = (Computer(name, base / name) for name in ("host", "guest"))
        for computer in (self.host, self.guest):
            computer.folder.mkdir(mode=0o700)
            computer.environment["XDG_RUNTIME_DIR"] = str(computer.folder)
        self._make_computers()
        self._make_resource_manager()
        self._make_connection()

    # Processes

    def start(
        self, computer: Computer, command: Sequence[str | Path], wait_for: bytes, stream: str = "stdout"
    ) -> subprocess.Popen[bytes]:
        """Start a program that stays, and wait for a line that contains ``wait_for``."""
        log = (computer.folder / f"{Path(str(command[0])).name}.log").open("ab")
        process = subprocess.Popen(
            [*computer.enter, *map(str, command)],
            env={**os.environ, **computer.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stream == "stdout" else log,
            stderr=subprocess.PIPE if stream == "stderr" else log,
            cwd=computer.folder,
            start_new_session=True,
        )
        reader = threading.Thread(target=lambda: shutil.copyfileobj(listened, log), daemon=True)
        self._ends.callback(_end, process, reader, log)
        listened = cast("IO[bytes]", process.stdout if stream == "stdout" else process.stderr)
        heard = []
        for line in listened:
            heard.append(line)
            if wait_for in line:
                # somebody must go on reading, or the program stops when the pipe is full
                reader.start()
                return process
        said = (Path(log.name).read_bytes() + b"".join(heard)).decode(errors="replace").strip().splitlines()
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        name = " ".join(map(str, command[2:4])) if list(command[:3]) == cardferry() else Path(str(command[0])).name
        error = DemoError(
            f"{name} did not start in the demo: {' '.join(said[-2:]) or 'it said nothing'}",
            f"look into what it says when started by hand: {shlex.join(map(str, command))}",
        )
        error.cause = (errors or said or [f"{name} said nothing"])[-1]
        raise error

    # The computers

    def _make_computers(self) -> None:
        if os.geteuid() != 0 or not all(map(program, ("unshare", "nsenter", "ip", "mount"))):
            self.cast.append(("two computers", "two folders on this one (as root: two network namespaces)"))
            return
        holders = [self._hold(computer) for computer in (self.host, self.guest)]
        pair = f"ip link add cf0 netns {holders[0]} type veth peer name cf0 netns {holders[1]}"
        if subprocess.run(pair.split(), capture_output=True, check=False).returncode:
            for computer in (self.host, self.guest):
                computer.enter = []
            self.cast.append(("two computers", "two folders on this one (no virtual network here)"))
            return
        for computer, address in ((self.host, _HOST_ADDRESS), (self.guest, _GUEST_ADDRESS)):
            computer.run(["ip", "addr", "add", f"{address}/24", "dev", "cf0"])
            computer.run(["ip", "link", "set", "cf0", "up"])
            computer.address = address
        self.cast.append(("two computers", "two network namespaces with a virtual cable between them"))

    def _hold(self, computer: Computer) -> int:
        furnish = (
            "ip link set lo up; mount -t tmpfs tmpfs /run; mkdir -p -m 755 /run/pcscd /run/sshd; "
            # vpcd writes a message in two pieces: without this each waits 40 ms for an acknowledgement
            "ip route replace table local local 127.0.0.1 dev lo proto kernel scope host src 127.0.0.1 quickack 1;"
            "echo up; exec sleep 600"
        )
        process = self.start(computer, ["unshare", "--mount", "--net", "sh", "-c", furnish], b"up")
        computer.enter = ["nsenter", f"--target={process.pid}", "--mount", "--net", f"--wd={computer.folder}"]
        return process.pid

    # What the host serves its card with

    def _make_resource_manager(self) -> None:
        pcscd = program("pcscd")
        if self.host.enter and pcscd and _VPCD.exists():
            configuration = self.host.folder / "reader.conf.d"
            configuration.mkdir()
            (configuration / "vpcd").write_text(
                f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{_VPCD_PORT:#x}\nLIBPATH {_VPCD}\n'
                f"CHANNELID {_VPCD_PORT:#x}\n"
            )
            self.start(
                self.host, [pcscd, "--foreground", "--debug", "--config", configuration], b"daemon ready", "stdout"
            )
            self.start(self.host, [*cardferry(), "card", "--dial", f"127.0.0.1:{_VPCD_PORT}"], b"ready")
            self.cast.append(("the host's resource manager", "a real pcscd with a vpcd reader"))
        else:
            self.pcscd = self.host.folder / "pcscd.comm"
            self.start(self.host, [*cardferry(), "attach", "virtual:", "--socket", self.pcscd], b"ready")
            self.cast.append(("the host's resource manager", "cardferry with its own reader (no pcscd, vpcd or root)"))
        self.cast.append(("the card", "cardferry's built-in PIV card, PIN 123456"))

    # How the guest reaches the host

    def _make_connection(self) -> None:
        sshd, ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
        if not (sshd and ssh and keygen):
            self.connect_directly("no OpenSSH here")
            return
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # as in many containers: OpenSSH refuses to run then
            self.connect_directly(f"user {os.geteuid()} has no name here, as ssh wants")
            return
        host_key, user_key = self.host.folder / "host_key", self.guest.folder / "id"
        for key in (host_key, user_key):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(user_key.with_suffix(".pub"), self.host.folder / "authorized_keys")
        self._start_sshd(sshd, host_key)
        public = host_key.with_suffix(".pub").read_text()
        (self.guest.folder / "known_hosts").write_text(f"demo-host {public}")
        configuration = self.guest.folder / "ssh_config"
        configuration.write_text(
            f"Host demo-host\n HostName {self.host.address}\n Port {_SSH_PORT}\n User {user}\n"
            f" IdentityFile {user_key}\n IdentitiesOnly yes\n HostKeyAlias demo-host\n"
            f" UserKnownHostsFile {self.guest.folder / 'known_hosts'}\n BatchMode yes\n"
        )
        self.source = ["demo-host", "--ssh", f"{ssh} -F {configuration}"]
        self.plain = [ssh, "-F", str(configuration), "-N", "-o", "ExitOnForwardFailure=yes", "demo-host"]
        self.cast.append((_CONNECTION, "a real ssh to a real sshd"))

    def connect_directly(self, reason: str) -> None:
        """Let the guest use the host's socket itself, because ssh is not there, or attach cannot use it."""
        self.source = [f"pcscd:{self.pcscd}"]
        self.plain = None
        self.guest.enter = list(self.host.enter)  # a socket in a file system of its own is not seen from elsewhere
        self.cast = [(part, player) for part, player in self.cast if part != _CONNECTION]
        self.cast.append((_CONNECTION, f"the socket itself ({reason})"))

    def _start_sshd(self, sshd: str, host_key: Path) -> None:
        settings: Mapping[str, object] = {
            "ListenAddress": f"{self.host.address}:{_SSH_PORT}",
            "HostKey": host_key,
            "AuthorizedKeysFile": self.host.folder / "authorized_keys",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "SetEnv": f"PCSCLITE_CSOCK_NAME={self.pcscd} XDG_RUNTIME_DIR={self.host.folder}",
        }
        file = self.host.folder / "sshd_config"
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self.start(self.host, [sshd, "-D", "-e", "-f", file], b"Server listening", "stderr")


def _end(process: subprocess.Popen[bytes], reader: threading.Thread, log: IO[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if reader.ident is not None:
        reader.join()
    log.close()
