"""A computer with a reader, and a container on it: no ssh, no network between them, only a folder that both see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.computer import CARDFERRY, Computer
from tests.lab.ferry import Ferry
from tests.lab.pcscd import accepts
from tests.lab.process import LabError, Running, wait_until


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The two of them.

    Attributes:
        host: has the reader.
        guest: runs the programs.
        path: of the socket for links, the same for both.
    """

    host: Computer
    guest: Computer
    path: Path

    @classmethod
    def of(cls, host: Computer, guest: Computer, shared: Path) -> Self:
        """Two computers of a lab; ``shared`` is a folder that both see."""
        folder = shared / "cards"
        folder.mkdir(mode=0o700)
        return cls(host, guest, folder / "link")

    @property
    def name(self) -> str:
        """What the guest attaches."""
        return f"unix:{self.path}"

    def agent(self, *words: str) -> Running:
        """``cardferry host --listen`` on the host, listening."""
        agent = self.host.popen([CARDFERRY, "host", "--listen", self.name, *words])

        def listens() -> bool:
            if agent.code is not None:
                raise LabError(f"the agent ended: {agent}")
            return accepts(self.path)

        wait_until(listens, f"the agent listens: {agent}")
        return agent

    def attach(self, *words: str) -> Ferry:
        """``cardferry attach`` of that socket on the guest, ready."""
        return Ferry(self.guest, ["attach", self.name, *words])
