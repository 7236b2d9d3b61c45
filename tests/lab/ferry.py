"""cardferry itself, as a person starts it: the command line in a computer of the lab."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.lab.computer import CARDFERRY, Computer
from tests.lab.process import Command, Result, Running
from tests.lab.recipe import Recipe


class Ferry:
    """A long-running cardferry command that has said it is ready.

    Attributes:
        process: the command.
        socket: what programs put into `PCSCLITE_CSOCK_NAME`, on the guest.
        env: the same as an environment.
    """

    def __init__(self, computer: Computer, arguments: Command, timeout: float = 30.0) -> None:
        self._of(computer.popen([CARDFERRY, *arguments]), timeout)

    @classmethod
    def of(cls, process: Running, timeout: float = 60.0) -> Ferry:
        """One that was started already."""
        ferry = cls.__new__(cls)
        ferry._of(process, timeout)
        return ferry

    def _of(self, process: Running, timeout: float) -> None:
        self.process: Running = process
        self.wait_until_ready(timeout)

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait for ``ready``, for the first time or after a new connection that says it again."""
        ready = self.process.wait_for("^ready .*", timeout=timeout).group()
        line = self.process.wait_for("export PCSCLITE_CSOCK_NAME=(.*)", timeout=timeout)
        self.socket = Path(shlex.split(line[1])[0])
        self.env = {"PCSCLITE_CSOCK_NAME": str(self.socket)}
        assert str(self.socket) in ready, ready

    def stop(self) -> Result:
        """SIGTERM and wait."""
        return self.process.stop()


def over(config: Path) -> tuple[str, str]:
    """``-e`` for an ssh configuration."""
    return ("-e", f"ssh -F {shlex.quote(str(config))}")


def attach(recipe: Recipe, *arguments: str, host: str = "host", config: Path | None = None) -> Ferry:
    """``cardferry attach host`` on the recipe's guest, ready."""
    return Ferry(recipe.guest, ["attach", host, *over(config or recipe.to_host), *arguments])


def share(recipe: Recipe, *arguments: str, guest: str = "guest", config: Path | None = None) -> Ferry:
    """``cardferry share guest`` on the recipe's host, ready."""
    return Ferry(recipe.host, ["share", guest, *over(config or recipe.to_guest), *arguments])


def cardferry(computer: Computer, *arguments: str, timeout: float = 30.0) -> Result:
    """A cardferry command run to its end."""
    return computer.run([CARDFERRY, *arguments], timeout=timeout)
