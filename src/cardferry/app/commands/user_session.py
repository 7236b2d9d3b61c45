"""Those who start programs in a user's name with an environment of their own, and what of it can be told and changed.

A variable that a shell has exported is not in theirs. systemd's user manager starts gpg-agent at the first connection
to its socket (Debian does that), ssh-agent and much of a desktop; the D-Bus daemon starts services. gpg-agent keeps the
environment that it was started with, and gives it to scdaemon; it tells what is in it (``getinfo getenv NAME``, since
GnuPG 2.1.16), which /proc does not, because Debian's is not to be traced.

None of them is started by being asked: not even gpg-agent, for which a connection would be enough.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cardferry.app.commands.variable import VARIABLE
from cardferry.pcsc.errors import UserError
from cardferry.system.processes import has_process, killed

#: s that each of them gets to answer.
_PATIENCE: Final = 10.0
_AGENT_UNITS: Final = ("gpg-agent.socket", "gpg-agent.service")


class NotImportedError(UserError):
    """There is nobody who could take the variable, or somebody who did not."""

    exit_code = 43


@dataclass(frozen=True, slots=True)
class Said:
    """What a program has printed."""

    code: int
    out: str
    err: str


async def ask(*command: str, environ: Mapping[str, str] | None = None) -> Said | None:
    """Run a program and return what it says; None when it is not there, or says nothing in time."""
    if shutil.which(command[0]) is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environ or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            out, err = await process.communicate()
    except TimeoutError:
        return None
    finally:
        await killed(process)
    return Said(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


async def output(*command: str) -> str | None:
    """What a program prints; None when it is not there or fails."""
    said = await ask(*command)
    return said.out if said is not None and said.code == 0 else None


async def in_user_manager(name: str) -> str | None:
    """The value that programs get which systemd's user manager starts, empty for none; None without such a manager."""
    shown = await output("systemctl", "--user", "show-environment")
    if shown is None:
        return None
    return next((line.partition("=")[2] for line in shown.splitlines() if line.startswith(f"{name}=")), "")


@dataclass(frozen=True, slots=True)
class GpgAgent:
    """The gpg-agent that gpg would use.

    Attributes:
        value: of the variable, in what it has or would get; empty when it is not set.
        runs: it is there now.
        by_manager: systemd's user manager starts it.
    """

    value: str
    runs: bool
    by_manager: bool


async def gpg_agent() -> GpgAgent | None:
    """What gpg-agent has as the variable; None when it cannot be told, or would be started by a shell's gpg."""
    path = await output("gpgconf", "--list-dirs", "agent-socket")
    if path is None:
        return None
    units = await ask("systemctl", "--user", "is-active", *_AGENT_UNITS)
    active = units.out.split() if units is not None else []
    # the manager listens for the default GNUPGHOME only; others have folders of their own in there
    by_manager = active[:1] == ["active"] and Path(unquote(path.strip())).parent.name == "gnupg"
    if by_manager and active[1:] != ["active"]:
        value = await in_user_manager(VARIABLE)
        return None if value is None else GpgAgent(value, runs=False, by_manager=True)
    if not has_process("gpg-agent"):
        return None
    answer = await output("gpg-connect-agent", "--no-autostart", f"getinfo getenv {VARIABLE}", "/bye")
    for line in (answer or "").splitlines():
        if line.startswith("D "):
            return GpgAgent(unquote(line[2:]), runs=True, by_manager=by_manager)
        if line.startswith("ERR ") and "Not found" in line:
            return GpgAgent("", runs=True, by_manager=by_manager)
    return None


async def stale_agent(value: str) -> str:
    """What to say of a gpg-agent that has another value; empty when there is none such."""
    agent = await gpg_agent()
    if agent is None or not agent.runs or agent.value == value:
        return ""
    return "gpg-agent runs with its old environment until you end it: gpgconf --kill gpg-agent"


@dataclass(slots=True)
class Import:
    """What has become of an import.

    Attributes:
        done: who has the variable now, a sentence each.
        failed: who did not take it, and why.
    """

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


async def import_variable(value: str) -> Import:
    """Give the variable to all who start programs for this user.

    Raises:
        NotImportedError: there is nobody.
    """
    result = Import()
    manager = await in_user_manager(VARIABLE) is not None
    if manager:
        await _give(result, value, "systemd's user manager", ["systemctl", "--user", "import-environment", VARIABLE])
    if _has_bus():
        words = ["--systemd"] if manager else []
        await _give(result, value, "the D-Bus session", ["dbus-update-activation-environment", *words, VARIABLE])
    if not result.done and not result.failed:
        raise NotImportedError(
            "this user has no systemd manager and no D-Bus session here",
            "programs that a shell starts need neither: export the variable there; who logs in, not with su, has one",
        )
    return result


async def _give(result: Import, value: str, who: str, command: Sequence[str]) -> None:
    said = await ask(*command, environ={VARIABLE: value})
    if said is None:
        if shutil.which(command[0]) is not None:
            result.failed.append(f"{who} does not answer")
    elif said.code:
        result.failed.append(f"{who}: {(said.err.strip() or f'exit status {said.code}').splitlines()[-1]}")
    else:
        result.done.append(f"{who} has {VARIABLE} now, for what it starts from now on")


def _has_bus() -> bool:
    """Whether there is a session's bus; libdbus might start one otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return bool(os.environ.get("DBUS_SESSION_BUS_ADDRESS")) or bool(runtime and Path(runtime, "bus").is_socket())
