"""Distance between two ends of a connection: `relay.py` as a process in the guest, at the place it connects to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.computer import Computer
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Running
from tests.lab.sshd import PORT


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through: connections, bytes each way, and round trips (turns from upward to downward).

    Attributes:
        quiet: s since the last byte came.
    """

    connections: int
    up: int
    down: int
    turns: int
    quiet: float


class _Relay:
    """A relay that runs, and what it can be told."""

    def __init__(self, process: Running) -> None:
        self._process = process
        self._process.wait_for("^listening$")

    def _order(self, word: str) -> None:
        self._process.write(f"{word}\n")
        self._process.wait_for(f"^{word}$")

    def black(self) -> None:
        """Swallow everything from now on, without a word to anybody."""
        self._order("black")

    def light(self) -> None:
        """Pass bytes again; only new connections make sense of them."""
        self._order("light")

    def cut(self) -> None:
        """Reset all connections."""
        self._order("cut")

    def traffic(self) -> Traffic:
        """What went through so far."""
        self._process.write("count\n")
        counts: dict[str, Any] = json.loads(self._process.wait_for(r"^\{.*\}$").group())
        return Traffic(**counts)

    def close(self) -> None:
        """Take the relay away."""
        self._process.close()


class DelayedPort(_Relay):
    """A TCP port of a guest that leads to a port of another computer, farther away than it is.

    Args:
        guest: where the port is; its LAN address is used, so that loopback's special treatment does not apply.
        target: the computer behind it.
        one_way: s that each byte takes, each way.
        port: of the target.
        local_port: of the guest.
    """

    def __init__(
        self, guest: Computer, target: Computer, one_way: float = 0.0, port: int = PORT, local_port: int = 2200
    ) -> None:
        self.address, self.port = guest.address, local_port
        relay = Path(__file__).with_name("relay.py")
        words: list[str | Path] = [
            PLAIN_PYTHON,
            relay,
            guest.address,
            str(local_port),
            target.address,
            str(port),
            str(one_way),
        ]
        super().__init__(guest.popen(words, stdin=True, mounts=False))


class DelayedSocket(_Relay):
    """A Unix socket that leads to another one, farther away than it is.

    Args:
        computer: where it is.
        path: of the new socket.
        target: path of the one behind it, in the same computer.
        one_way: s that each byte takes, each way.
    """

    def __init__(self, computer: Computer, path: Path, target: Path, one_way: float = 0.0) -> None:
        relay = Path(__file__).with_name("relay.py")
        words: list[str | Path] = [PLAIN_PYTHON, relay, path, "0", target, "0", str(one_way)]
        super().__init__(computer.popen(words, stdin=True))
