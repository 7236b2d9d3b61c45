"""nats-servers of the lab: one, or a cluster, each a process of its own in one computer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab.computer import Computer
from tests.lab.process import Result, Running, wait_until

PORT, _CLUSTER_PORT = 4222, 6222
#: Debian has it where PATH may not lead.
PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nats-server"


class NatsServer:
    """A nats-server.

    Args:
        computer: where it runs.
        number: 0 for the first one there; each has ports of its own.
        cluster: so many are in its cluster.
        options: lines of its configuration.
        jetstream: whether it keeps anything.
    """

    def __init__(
        self, computer: Computer, number: int = 0, cluster: int = 1, options: str = "", jetstream: bool = True
    ) -> None:
        self.computer = computer
        self.port = PORT + number
        self.url = f"nats://{computer.address}:{self.port}"
        folder = computer.folder / f"nats{number}"
        folder.mkdir()
        lines = [f"server_name: n{number}", f"port: {self.port}", options]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{folder}", max_memory_store: 64MB, max_file_store: 256MB }}')
        if cluster > 1:
            routes = ", ".join(f"nats-route://127.0.0.1:{_CLUSTER_PORT + one}" for one in range(cluster))
            lines.append(f"cluster {{ name: lab, listen: 127.0.0.1:{_CLUSTER_PORT + number}, routes: [{routes}] }}")
        self._config = folder / "nats.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        """Start (again), and wait until it listens."""
        self.process: Running = self.computer.popen([PROGRAM, "-c", self._config])
        self.process.wait_for("Listening for client connections", stream="err")

    def forget(self) -> None:
        """Lose what it has kept; it must not run."""
        shutil.rmtree(self._config.parent / "jetstream")

    def stop(self) -> Result:
        """End it."""
        return self.process.stop()

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()


def cluster(computer: Computer, size: int = 3) -> list[NatsServer]:
    """Servers that keep one directory, ready to do so."""
    servers = [NatsServer(computer, number, size) for number in range(size)]

    def led() -> bool:
        return any("JetStream cluster new metadata leader" in str(one.process) for one in servers)

    wait_until(led, "the cluster has a leader")
    return servers


def leads(server: NatsServer) -> bool:
    """Whether it is the one that leads those who keep the directory, if nobody has before."""
    return "new stream leader for '$G > KV_cardferry'" in str(server.process)


def urls(servers: Sequence[NatsServer]) -> str:
    """All of them, as options take them."""
    return ",".join(one.url for one in servers)


def configuration(computer: Computer, table: str) -> Path:
    """Write the table ``[fleet]`` of a computer's configuration."""
    path = computer.home / ".config" / "cardferry" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(table)
    path.chmod(0o600)
    return path
