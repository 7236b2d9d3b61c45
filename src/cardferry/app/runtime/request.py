"""What somebody asks the agent for, as it is sent there. Only light imports: each session that ssh opens sends one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

#: The pcscd of this computer, as a `HostAddress` is written.
LOCAL: Final = "pcscd:/run/pcscd/pcscd.comm"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """Readers of this computer, and how they are to be served. Times in s.

    Attributes:
        readers: which set of readers: a `HostAddress` as text.
        offered: patterns of the names of those that are offered, the most important first; none offers all.
        record: an absolute path, where each call is noted; empty for no record.
        max_idle, max_hold: bounds of an owner; see `cardferry.manager.Settings`.
        exclusive: an `ExclusivePolicy`.
        grace: how long a guest that is out of reach keeps what it holds.
        accelerate: whether to run ahead for guests.
        memory: whether guests are told what cards have said before.
        slots, name_size: what old libraries have room for; 0 for what they usually have.
        config: an absolute path, the rules that must be in force; empty for whatever rules the agent has.
    """

    readers: str = LOCAL
    offered: tuple[str, ...] = ()
    record: str = ""
    max_idle: float = 30.0
    max_hold: float = 120.0
    exclusive: str = "lease"
    grace: float = 10.0
    accelerate: bool = True
    slots: int = 0
    name_size: int = 0
    config: str = ""
    memory: bool = True


def whole_path(path: Path | None) -> str:
    """A path for somebody whose working directory is another one; empty for None."""
    return "" if path is None else os.path.abspath(path)  # noqa: PTH100 - a symbolic link stays one
