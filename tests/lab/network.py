"""The network between the lab's computers: a switch with a cable to each."""

from __future__ import annotations

from tests.lab.computer import Computer
from tests.lab.namespaces import Holder


class Network:
    """A bridge in a network namespace of its own, 10.77.0.0/24."""

    def __init__(self) -> None:
        self.holder = Holder()
        self._members: dict[str, int] = {}
        self.holder.ip("link add name switch type bridge")
        self.holder.ip("link set switch up")

    def join(self, computer: Computer) -> str:
        """Lay a cable to a computer; returns (and notes) its address."""
        number = len(self._members) + 1
        self._members[computer.name] = number
        port = f"port{number}"
        self.holder.ip(f"link add name {port} type veth peer name lan{number}")
        self.holder.ip(f"link set lan{number} netns {computer.holder.pid}")
        self.holder.ip(f"link set {port} master switch up")
        computer.holder.ip(f"link set lan{number} name lan0")
        computer.holder.ip(f"addr add 10.77.0.{number}/24 dev lan0")
        computer.holder.ip("link set lan0 up")
        computer.address = f"10.77.0.{number}"
        return computer.address

    def unplug(self, computer: Computer) -> None:
        """Pull the computer's cable: it vanishes without a word."""
        self.holder.ip(f"link set port{self._members[computer.name]} down")

    def plug(self, computer: Computer) -> None:
        """Put the cable back."""
        self.holder.ip(f"link set port{self._members[computer.name]} up")

    def close(self) -> None:
        """Take the network away."""
        self.holder.close()
