"""The near half of every composition: readers of a source, arbitrated, for the applications of one socket."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app.logs import TRAFFIC
from cardferry.app.paths import folder_permissions
from cardferry.frontends.listening import ListeningSocket
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.interface import Peer, ResourceManager
from cardferry.policy.recorded import CallRecord, Recorded
from cardferry.readers.base import ReaderSource
from cardferry.transports.sockets import checked_path, checked_reach

log = logging.getLogger("cardferry.traffic")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect to a socket of ours.

    Attributes:
        mode: the socket's access rights.
        group: group that gets it, None leaves the user's own.
    """

    mode: int = 0o600
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """How applications are served.

    Attributes:
        access: who may connect.
        settings: bounds of the resource manager.
    """

    access: Access = field(default_factory=Access)
    settings: Settings = field(default_factory=Settings)


def public_path(path: Path, access: Access) -> Path:
    """The absolute path of a socket for applications; raises `UserError` when those let in could not reach it."""
    absolute = Path(checked_path(os.path.abspath(path), "--socket"))  # noqa: PTH100 - a symbolic link stays
    checked_reach(str(absolute), folder_permissions(absolute.parent), access.mode, access.group, "--socket")
    return absolute


@asynccontextmanager
async def serving(
    source: ReaderSource, listening: ListeningSocket, settings: Settings, peer: Peer | None = None
) -> AsyncIterator[LocalManager]:
    """Serve the readers of ``source`` at ``listening`` for the block; yields the manager.

    Args:
        peer: who all callers are, where the kernel cannot tell.
    """
    async with LocalManager([source], settings) as manager:
        served: ResourceManager = manager
        if log.isEnabledFor(TRAFFIC):
            served = Recorded(manager, _note)
        async with PcscliteFrontend(served, listening, peer=peer):
            yield manager


def _note(record: CallRecord) -> None:
    log.log(
        TRAFFIC,
        "[%s reader=%r] %s %s: %s (%.1f ms)",
        record.peer,
        record.reader,
        record.call,
        record.what,
        record.outcome or "done",
        record.seconds * 1000,
    )
