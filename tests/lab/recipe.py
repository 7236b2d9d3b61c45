"""The article's recipe: a host with a reader, a guest with the programs, an sshd on both, and ssh by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.lab.computer import Computer
from tests.lab.lab import Lab
from tests.lab.pcscd import SOCKET, Pcscd, accepts
from tests.lab.process import Command, LabError, Running, wait_until
from tests.lab.sshd import Sshd


class Recipe:
    """Two computers, ready for the recipe; cards are put in by the test.

    Args:
        lab: where to build them.
        readers: virtual readers of the host.
        options: of both sshds, see `Sshd`.
        names: of host and guest.
        pcscd: the host's pcscd, instead of one with virtual readers.

    Attributes:
        host: has pcscd; its ssh reaches the guest with ``-F`` `to_guest` as ``guest``.
        guest: runs the programs; its ssh reaches the host with ``-F`` `to_host` as ``host``.
    """

    def __init__(
        self,
        lab: Lab,
        readers: int = 2,
        options: Mapping[str, str] | None = None,
        names: tuple[str, str] = ("host", "guest"),
        pcscd: Callable[[Computer], Pcscd] | None = None,
    ) -> None:
        self.host = lab.computer(names[0])
        self.guest = lab.computer(names[1])
        self.pcscd = pcscd(self.host) if pcscd else Pcscd(self.host, readers)
        self.host_sshd = Sshd(self.host, options)
        self.guest_sshd = Sshd(self.guest, options)
        self.to_host = self.host_sshd.config(self.guest, "host")
        self.to_guest = self.guest_sshd.config(self.host, "guest")
        self._sockets = 0

    def new_socket(self) -> Path:
        """A path for a socket on the guest, not used before."""
        self._sockets += 1
        return self.guest.home / f"card{self._sockets}"

    def ssh_local(
        self, *options: str, socket: Path | None = None, config: Path | None = None, to: str = "host"
    ) -> Forward:
        """``ssh -N -L SOCKET:/run/pcscd/pcscd.comm host`` on the guest, up and listening."""
        path = socket or self.new_socket()
        command: Command = ["ssh", "-F", config or self.to_host, *options, "-N", "-L", f"{path}:{SOCKET}", to]
        return Forward(self.guest, self.guest.popen(command), path)

    def ssh_remote(self, *options: str, socket: Path | None = None, config: Path | None = None) -> Forward:
        """``ssh -N -R SOCKET:/run/pcscd/pcscd.comm guest`` on the host, up and listening."""
        path = socket or self.new_socket()
        command: Command = ["ssh", "-F", config or self.to_guest, *options, "-N", "-R", f"{path}:{SOCKET}", "guest"]
        return Forward(self.guest, self.host.popen(command), path)


class Forward:
    """A forwarding ssh that is up.

    Attributes:
        ssh: the process.
        socket: on the guest, for `PCSCLITE_CSOCK_NAME`.
        env: the same as an environment.
    """

    def __init__(self, guest: Computer, ssh: Running, socket: Path) -> None:
        self.ssh, self.socket = ssh, socket
        self.env = {"PCSCLITE_CSOCK_NAME": str(socket)}
        path = guest.outside(socket)

        def ready() -> bool:
            if ssh.code is not None:
                raise LabError(f"ssh ended: {ssh}")
            return accepts(path)

        wait_until(ready, f"ssh listens at {socket}: {ssh}")

    def stop(self) -> None:
        """End ssh."""
        self.ssh.stop()
