"""The test lab: computers, cards and distance on one machine.

A `Computer` is a mount, network and host-name namespace with its own `/run`, `/tmp` and home; a `Network` joins
them; real `pcscd` and `sshd` run in them; cards dial in to pcscd's virtual readers; a `DelayedPort` puts distance
between ssh and sshd. `Lab` owns it all and ends it all. Used by `tests/` and by `bench/`.
"""

from tests.lab.computer import Computer
from tests.lab.lab import Lab
from tests.lab.process import LabError, Result, Running

__all__ = ["Computer", "Lab", "LabError", "Result", "Running"]
