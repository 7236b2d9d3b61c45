"""A socket of ours on the other side, for programs there (``ssh -R``, with manners).

sshd refuses to bind where a file is, and an old sshd that ends later removes the path it bound, even when a newer
socket is there. So it binds a name in a private folder beside it, and the guard then gives the socket its rights and
its public name, and remembers whose it is. What was at that name before is looked at first: a dead socket is replaced,
whatever ``StreamLocalBindUnlink`` says; a live one, or something that is not a socket, is left alone.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.transports.probe import Answer, ask_version
from cardferry.transports.sockets import (
    FolderUnsafeError,
    NotASocketError,
    PathUnusableError,
    SocketTakenError,
    checked_path,
    checked_reach,
    who_is_in_the_way,
)
from cardferry.transports.ssh.connection import SshConnection
from cardferry.transports.ssh.guard import Reply

log = logging.getLogger("cardferry.ssh")

#: Seconds that whoever is at the public name gets to answer.
_PROBE_TIME: Final = 3.0
_OPTION: Final = "--remote-socket"


@dataclass(slots=True)
class RemoteSocket:
    """What to offer on the other side, and what this process has offered there before.

    Attributes:
        path: the public path; None chooses one from the account's own folders.
        name: our name over there: the file's name when ``path`` is None, and in other people's errors.
        mode: access rights.
        group: group that gets it, None leaves the account's own.
    """

    path: str | None
    name: str
    mode: int = 0o600
    group: str | None = None
    _marks: set[str] = field(default_factory=set)

    async def offer(self, connection: SshConnection, local: Path, scratch: Path) -> str:
        """Put the socket there, leading to ``local`` here; return its path.

        Args:
            connection: to the other side; its guard removes the socket when it ends.
            local: a listening socket here.
            scratch: a private folder here for probing.

        Raises:
            SocketTakenError, NotASocketError, FolderUnsafeError, PathUnusableError: the public path cannot be ours.
            ForwardingRefusedError: sshd does not let us.
        """
        path = checked_path(self.path or await self._default_path(connection), _OPTION)
        private = f"{path.rpartition('/')[0]}/.cf-{secrets.token_hex(3)}"
        bound = checked_path(f"{private}/s", _OPTION)
        await self._make_room(connection, path, scratch)
        self._check(await connection.ask("private", private), path, connection)
        await connection.forward_to_local(bound, local)
        rights = f"{self.mode:o}", self.group or ""
        self._check(await connection.ask("publish", path, *rights, f"cardferry of {self.name}"), path, connection)
        self._marks.add(connection.mark)
        return path

    @staticmethod
    def _check(reply: Reply, path: str, connection: SshConnection) -> None:
        if reply.failure:
            kind = SocketTakenError if "taken" in reply.values else PathUnusableError
            raise kind(
                f"cannot offer {path} on {connection.destination}: {reply.failure}",
                f"see {_OPTION}, --mode and --group",
            )

    async def _default_path(self, connection: SshConnection) -> str:
        facts = connection.facts
        folder = f"{facts.runtime}/cardferry" if facts.runtime else f"{facts.temporary}/cardferry-{facts.uid}"
        reply = await connection.ask("folder", folder)
        if reply.failure:
            raise FolderUnsafeError(
                f"the folder {folder} on {connection.destination} cannot be used: {reply.failure}",
                f"remove it over there, or choose a path with {_OPTION} PATH",
            )
        return f"{folder}/{self.name}.sock"

    async def _make_room(self, connection: SshConnection, path: str, scratch: Path) -> None:
        seen = await connection.ask("look", path)
        where = f"{path} on {connection.destination}"
        if "unsafe" in seen.values:
            raise FolderUnsafeError(
                f"the folder of {where} cannot be trusted: {seen.values['unsafe']}",
                f"choose a path in a folder of the account's own with {_OPTION} PATH",
            )
        match seen.values.get("kind"):
            case "none":
                pass
            case "socket":
                await self._replace(connection, path, seen, scratch)
            case "no-folder":
                raise FolderUnsafeError(
                    f"the folder of {where} does not exist", "make it over there, or choose another path"
                )
            case "locked":
                raise FolderUnsafeError(
                    f"the account may not make {where}", f"choose a path in a folder of its own with {_OPTION} PATH"
                )
            case _:
                raise NotASocketError(
                    f"{where} exists and is not a socket", f"remove it, or choose another path with {_OPTION} PATH"
                )
        checked_reach(path, seen.values.get("folder", ""), self.mode, self.group, _OPTION)

    async def _replace(self, connection: SshConnection, path: str, seen: Reply, scratch: Path) -> None:
        """Take away the socket at ``path``, unless somebody lives there."""
        values = seen.values
        if values.get("token") in self._marks:
            log.info("taking back %s on %s from our lost connection", path, connection.destination)
            verb = "evict"
        elif await self._dead(connection, path, values, scratch):
            log.info("removing the dead socket %s on %s", path, connection.destination)
            verb = "remove"
        else:
            raise await self._taken(connection, path, values)
        reply = await connection.ask(verb, path)
        if reply.failure:
            raise SocketTakenError(
                f"the dead socket {path} on {connection.destination} cannot be removed: {reply.failure}",
                f"remove it over there, or choose another path with {_OPTION} PATH",
            )

    async def _dead(self, connection: SshConnection, path: str, values: dict[str, str], scratch: Path) -> bool:
        """Whether nobody serves there: a knock at the socket must fail, and the kernel over there not know better.

        A socket of a cardferry whose session is gone, held by nothing but an sshd that has not noticed, is dead when
        it does not answer.
        """
        abandoned = "token" in values and "running" not in values
        if values.get("listening") == "yes" and not abandoned:
            return False
        probe = scratch / "probe"
        mark = connection.complaint_count()
        await connection.forward_to_remote(probe, path)
        answer = await ask_version(probe, _PROBE_TIME)
        await connection.cancel_to_remote(probe, path)
        if answer is Answer.ANSWERED:
            return False
        return abandoned or (answer is Answer.CLOSED and await connection.refused_since(mark))

    async def _taken(self, connection: SshConnection, path: str, values: dict[str, str]) -> SocketTakenError:
        elsewhere = f"choose another path with {_OPTION} PATH"
        if values.get("name"):
            holder = f"{values['name']} since {values.get('since', '?')}"
            hint = f"end that one, or {elsewhere}; if its computer has vanished, wait 10 s"
        else:
            holder = (await connection.ask("holder", path)).values.get("holder", "another program")
            hint = who_is_in_the_way(path, holder, elsewhere)
        return SocketTakenError(f"{path} on {connection.destination} is in use by {holder}", hint)
