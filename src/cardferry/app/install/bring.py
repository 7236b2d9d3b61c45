"""Brings cardferry to another computer, points its command to one that is there, and takes away what it has brought.

~/.local/bin/cardferry -> ../share/cardferry/current -> VERSION-DIGEST/bin/cardferry, or a command that is there

All goes through one connection of ssh. `There` says what is needed; ``receive.py`` puts it in its place.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Final

import cardferry
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.install.bundle import bundle, trial
from cardferry.app.install.own_files import Package, own_abi, own_packages
from cardferry.app.install.there import Python, SetupError, There, bounded, complaint, look, started, told
from cardferry.app.install.wheels import fetch
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.transports.ssh import SshCommand, SshConnection

#: Bytes that are sent before a word comes back: as many wait in front of the connection's signs of life, which the
#: other side must hear within 6 s, also where the network is slow.
_PIECE: Final = 1 << 18
_OURS: Final = "../share/cardferry/"
#: Runs what comes: the number of bytes of a program on the first line, then the program.
_BOOT: Final = "exec {python} -I -c 'import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))'"

Tell = Callable[[str], None]


async def bring(host: SshHost, ssh: SshCommand, tell: Tell) -> None:
    """Bring this cardferry to ``host``.

    Args:
        tell: gets lines for people.

    Raises:
        SetupError: what is missing, or what went wrong; what was there before is as it was.
        SshError: the host cannot be reached.
    """
    async with _connected(host, ssh) as (connection, folder):
        there = await look(connection)
        python = _choose(host, there)
        packages = await _packages(python, folder, tell, host)
        made = await asyncio.to_thread(bundle, packages, python)
        if there.works and there.program == f"{made.name}/bin/cardferry":
            tell(f"{host} has it already: cardferry {cardferry.__version__}")
            return
        data = await asyncio.to_thread(made.compressed)
        tell(f"{host}: {len(data) / 1e6:.1f} MB go there, for {python}")
        await _send(connection, python, {"name": made.name, "trial": trial(packages)}, data)
        tell(f"{host}: ~/.local/bin/cardferry is cardferry {cardferry.__version__} now")


async def use(host: SshHost, ssh: SshCommand, command: str, tell: Tell) -> None:
    """Make ``~/.local/bin/cardferry`` on ``host`` lead to a command that is there; raises as `bring` does."""
    async with _connected(host, ssh) as (connection, _):
        there = await look(connection)
        await _send(connection, _choose(host, there), {"command": command}, b"")
        tell(f"{host}: ~/.local/bin/cardferry is {command} now")


async def remove(host: SshHost, ssh: SshCommand, tell: Tell) -> None:
    """Take away from ``host`` what was brought there, and end what runs from there; raises `SshError`."""
    async with _connected(host, ssh) as (connection, _):
        if "removed" in await told(connection, "remove.sh"):
            tell(f"{host}: cardferry was removed; its configuration and audit, if there are any, stay")
        else:
            tell(f"{host}: there is nothing that setup has brought")


@asynccontextmanager
async def _connected(host: SshHost, ssh: SshCommand) -> AsyncIterator[tuple[SshConnection, Path]]:
    with scratch(runtime_folder()) as folder:
        async with SshConnector(host.destination, ssh, folder) as connector:
            yield await connector.connection(), folder


def _choose(host: SshHost, there: There) -> Python:
    """The Python to use: one like ours, else the newest."""
    if not there.system.startswith("Linux "):
        raise SetupError(f"{host} runs {there.system}", "readers are reached there by plain forwarding: it needs Linux")
    if there.link and not there.link.startswith(_OURS):
        where = "" if there.link == "file" else f" -> {there.link}"
        raise SetupError(
            f"{host} has a cardferry that setup has not brought: ~/.local/bin/cardferry{where}",
            "bring that one up to date, as with uv tool upgrade cardferry; or remove it there, and try again",
        )
    usable = [one for one in there.pythons if one.usable]
    if not usable:
        found = ", ".join([str(one) for one in there.pythons] + [f"{one}, which does not work" for one in there.broken])
        raise SetupError(
            f"{host} lacks Python 3.11 or newer: it has {found or 'none'}",
            "install one there: apt install python3 as root; or without: uv python install",
        )
    return max(usable, key=lambda one: (one.abi == own_abi(), one.version))


async def _packages(python: Python, folder: Path, tell: Tell, host: SshHost) -> list[Package]:
    """Ours, those with compiled modules for that Python."""
    packages = await asyncio.to_thread(own_packages)
    if python.abi == own_abi():
        foreign = [one for one in packages if python.glibc and one.glibc > python.glibc]
    else:
        foreign = [one for one in packages if not one.pure]
    if not foreign:
        return packages
    tell(f"{host}: fetching {', '.join(one.name for one in foreign)} for {python}")
    return [one for one in packages if one not in foreign] + await fetch(foreign, python, folder / "wheels")


async def _send(connection: SshConnection, python: Python, request: dict[str, Any], data: bytes) -> None:
    """Run `receive` over there; give it a request, and what comes with it."""
    mark = secrets.token_hex(8)
    program = resources.files(__package__).joinpath("receive.py").read_bytes()
    line = json.dumps({"mark": mark, "size": len(data), **request}).encode()
    process = await started(connection, _BOOT.format(python=shlex.quote(python.path)), complaints=True)
    source, sink, errors = process.stdout, process.stdin, process.stderr
    if source is None or sink is None or errors is None:
        raise RuntimeError("a process without pipes")
    done = False
    async with asyncio.TaskGroup() as tasks:
        complaints = tasks.create_task(bounded(errors), name=f"complaints of {connection.destination}")
        with suppress(BrokenPipeError, ConnectionResetError, ValueError):  # ValueError: a line without an end
            sink.write(b"%d\n%s%s\n" % (len(program), program, line))
            for start in range(0, len(data), _PIECE):
                sink.write(data[start : start + _PIECE])
                await sink.drain()
                if not await _heard(source, f"{mark} more"):
                    break
            done = await _heard(source, f"{mark} done")
    status = await process.wait()
    if not done:
        why = complaint(complaints.result().decode(errors="replace"), status)
        raise SetupError(
            f"{connection.destination} has not taken cardferry: {why}",
            "what was there is as it was; mend that, and try again",
        )


async def _heard(stream: asyncio.StreamReader, wanted: str) -> bool:
    """Wait for a line; whatever else is printed over there is passed over. False when the stream has ended."""
    async for line in stream:
        if line.decode(errors="replace").rstrip("\r\n") == wanted:
            return True
    return False
