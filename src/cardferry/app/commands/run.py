"""``run``: a command with the variable set that leads it to the readers; attached only meanwhile if nothing is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cardferry.app.commands.attach import attached
from cardferry.app.commands.variable import VARIABLE
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.runtime.signals import signals_to_child
from cardferry.app.runtime.status_socket import Running
from cardferry.pcsc.errors import UserError
from cardferry.system.limits import cores_as_before

_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_SIGNALLED: Final = 128


class NotAttachedError(UserError):
    """No readers are attached."""

    exit_code = 40


class AmbiguousError(UserError):
    """Several hosts are attached, and it was not said which one is meant."""

    exit_code = 41


class CommandNotStartedError(UserError):
    """The command cannot be started."""

    def __init__(self, command: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError)
        super().__init__(f"cannot run {command}: {error.strerror}", "check the command after --")
        self.exit_code = _NOT_FOUND if missing else _NOT_EXECUTABLE


def choose(running: Sequence[Running], host: HostAddress | None) -> Running | None:
    """The attachment that is meant: of ``host``, or the only one.

    Returns:
        None when nothing is attached that could be meant.

    Raises:
        AmbiguousError: several are attached and ``host`` is None.
    """
    attachments = [one for one in running if one.serves]
    if host is not None:
        mine = [one for one in attachments if str(host) in (link.host for link in one.links)]
        return min(mine, key=lambda one: len(one.links), default=None)
    if len(attachments) > 1:
        names = ", ".join(one.hosts for one in attachments)
        raise AmbiguousError(f"several hosts are attached: {names}", "say which one, as in `cardferry env HOST`")
    return attachments[0] if attachments else None


def execute(command: Sequence[str], socket: str, environ: Mapping[str, str] = os.environ) -> None:
    """Become ``command``, which finds the readers at ``socket``; raises `CommandNotStartedError`."""
    try:
        os.execvpe(command[0], list(command), {**environ, VARIABLE: socket})  # noqa: S606 - that is what run is for
    except OSError as error:
        raise CommandNotStartedError(command[0], error) from None


async def run_attached(command: Sequence[str], attachment: Attachment) -> int:
    """Attach, run ``command``, detach; return its exit code, 128 + n when signal n ended it."""
    async with attached(attachment) as path:
        return await _run(command, path)


async def _run(command: Sequence[str], socket: Path) -> int:
    with signals_to_child() as to:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, VARIABLE: str(socket)}, preexec_fn=cores_as_before
            )
        except OSError as error:
            raise CommandNotStartedError(command[0], error) from None
        to(process.pid)
        code = await process.wait()
    return code if code >= 0 else _SIGNALLED - code
