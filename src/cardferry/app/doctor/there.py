"""Probes of the host: the login, what is installed there, both ways to its readers, its pcscd and cards.

The ways are those of `attach`: the link where cardferry is installed over there, too, else a forwarded socket.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cardferry.app.doctor.distance import distance
from cardferry.app.doctor.finding import Finding, State, note, ok, problem
from cardferry.app.doctor.here import CCID_DRIVERS, no_driver
from cardferry.app.doctor.reading import about_readers
from cardferry.app.doctor.reading import look as readers_at
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.direct_link import LinkHost, linked_directly
from cardferry.app.hosts.gain import gain
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.pool_members import members_of
from cardferry.app.hosts.sources import VIRTUAL_READER, PcscdHost, VirtualHost, VpiccHost, check_pcscd
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.hosts.ssh_link import link_over, remote_command, session_dial
from cardferry.app.runtime.paths import scratch
from cardferry.app.runtime.status_socket import Running
from cardferry.link import Guest, Timing
from cardferry.pcsc.errors import CardferryError, UserError
from cardferry.pcsc.reader_state import Snapshot
from cardferry.transports.errors import TransportError
from cardferry.transports.ssh import NoShellError, SshCommand, SshConnection, forward_pcscd
from cardferry.transports.ssh.command import run

#: s that the cardferry over there gets to start its agent and tell its readers.
_LINK_TIME: Final = 20.0
#: What `cardferry status` over there complains of, and what it says to do about it.
_SILENT: Final = re.compile(r"^(process \d+ .*?); (.*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Inspection:
    """How to look at a host.

    Attributes:
        way: to it.
        running: what of ours runs here.
        level: the level that programs here speak, None when that is not known.
    """

    way: Way
    running: list[Running]
    level: int | None


async def host(
    wanted: HostAddress, ssh: SshCommand, folder: Path, running: list[Running], level: int | None
) -> AsyncIterator[Finding]:
    """Go the whole way to the host's cards.

    Args:
        ssh: the ssh program.
        folder: our runtime folder.
        running: what of ours runs here.
        level: the level that programs here speak, None when that is not known.
    """
    with scratch(folder) as workdir:
        async for finding in CHECKS[type(wanted)](wanted, Inspection(Way(workdir, ssh), running, level)):
            yield finding


async def _ssh(wanted: SshHost, at: Inspection) -> AsyncIterator[Finding]:
    async with SshConnector(wanted.destination, at.way.ssh, at.way.workdir) as connector:
        async for finding in _over_ssh(connector, at.way.workdir, at.level):
            yield finding
    for finding in distance(str(wanted), at.running):
        yield finding


async def _pcscd(wanted: PcscdHost, at: Inspection) -> AsyncIterator[Finding]:
    await check_pcscd(wanted.path)
    yield ok(str(wanted), "it answers")
    async for finding in readers_at(str(wanted), wanted.path, needed=True, library=at.level):
        yield finding


async def _link_host(wanted: LinkHost, at: Inspection) -> AsyncIterator[Finding]:
    async for finding in _link(str(wanted), linked_directly(wanted.address)):
        yield finding
    for finding in distance(str(wanted), at.running):
        yield finding


async def _pool(wanted: PoolHost, at: Inspection) -> AsyncIterator[Finding]:
    async with members_of(wanted.name, wanted.parse_member, wanted.servers) as (members, _):
        hosts = members.hosts
    if not hosts:
        yield problem(
            str(wanted), "no host of the fleet is in it", "see the labels that cardferry readers --fleet lists"
        )
    for number, member in enumerate(hosts):
        folder = at.way.workdir / f"member{number}"
        folder.mkdir(mode=0o700)
        async for finding in CHECKS[type(member)](member, replace(at, way=replace(at.way, workdir=folder))):
            yield finding


async def _vpicc(wanted: VpiccHost, at: Inspection) -> AsyncIterator[Finding]:
    name, where = str(wanted), wanted.where
    place = f"port {where}" if isinstance(where, int) else str(where)
    if name in (link.host for one in at.running for link in one.links):
        yield ok(name, f"cards can dial in at {place}: it is attached")
    else:
        async with wanted.open_readers(at.way):
            yield ok(name, f"{place} is free: cards can dial in once it is attached")
    if isinstance(where, int):
        yield note(name, f"any user of this computer can put a card in at {place}", "vpicc:unix:PATH is for you alone")


async def _virtual(wanted: VirtualHost, at: Inspection) -> AsyncIterator[Finding]:
    async with wanted.open_readers(at.way):
        yield ok(str(wanted), f"the built-in card is there, in the reader {VIRTUAL_READER!r}")


#: Kind of host -> what to look at; one for each of `cardferry.app.hosts.registry.KINDS`.
CHECKS: Final[Mapping[type[HostAddress], Callable[[Any, Inspection], AsyncIterator[Finding]]]] = {
    SshHost: _ssh,
    PcscdHost: _pcscd,
    LinkHost: _link_host,
    PoolHost: _pool,
    VpiccHost: _vpicc,
    VirtualHost: _virtual,
}


async def _over_ssh(connector: SshConnector, workdir: Path, level: int | None) -> AsyncIterator[Finding]:
    host = connector.destination
    try:
        connection = await connector.connection()
    except NoShellError as error:
        connector.alone = True
        linked = [finding async for finding in _link(host, link_over(session_dial(connector), host, Timing()))]
        if linked[0].state is State.PROBLEM:
            yield problem(f"ssh {host}", error.message, error.hint)
        else:
            yield ok(f"ssh {host}", "logged in with a key that is for the link only")
        for finding in linked:
            yield finding
        return
    facts = connection.facts
    yield ok(f"ssh {host}", f"logged in as user {facts.uid} on {facts.system}")
    if not facts.terminal:
        yield note(
            f"ssh {host}",
            "its sshd gives no terminals, so small messages wait for acknowledgements (40 ms each)",
            "PermitTTY yes in its sshd_config",
        )
    linked = []
    if "cardferry" in facts.installed:
        installed = await _installed(connection)
        yield installed
        if facts.pcscd and installed.state is not State.PROBLEM:
            linked = [finding async for finding in _link(host, link_over(session_dial(connector), host, Timing()))]
            for finding in linked:
                yield finding
    else:
        brings = gain(await connection.round_trip(), host)
        yield note(f"cardferry on {host}", f"it is not installed there: plain forwarding is used; {brings}")
    if not await _has_driver(connection):
        yield no_driver(f"driver on {host}", " there")
    works = bool(linked) and linked[0].state is State.OK
    async for finding in _forwarding(connection, workdir / "pcscd", level, works):
        yield finding


async def _installed(connection: SshConnection) -> Finding:
    """The cardferry over there: its version, and whether its agent runs."""
    probe = f"cardferry on {connection.destination}"
    status, said, complaints = await run(connection.session_command(remote_command(["--version"])))
    if status != 0:
        why = (complaints.strip() or f"exit status {status}").splitlines()[-1]
        return problem(probe, f"it does not start: {why}", "try it there: cardferry --version")
    _, listing, complaints = await run(connection.session_command(remote_command(["status", "--json"])))
    has_agent = _has_agent(listing)
    if silent := _SILENT.search(complaints):
        make = note if has_agent else problem
        return make(probe, f"{said.strip()} is installed there; {silent[1]}", f"over there: {silent[2]}")
    agent = "its agent runs" if has_agent else "its agent does not run; attach starts it"
    return ok(probe, f"{said.strip()} is installed there, {agent}")


def _has_agent(listing: str) -> bool:
    """Whether ``status --json`` of any version lists an agent."""
    try:
        running = json.loads(listing)
    except (ValueError, RecursionError):
        return False
    return isinstance(running, list) and any(isinstance(one, dict) and one.get("command") == "host" for one in running)


async def _has_driver(connection: SshConnection) -> bool:
    _, found, _ = await run(connection.session_command(f"exec sh -c 'ls -d {' '.join(CCID_DRIVERS)} 2>/dev/null'"))
    return bool(found.strip())


async def _link(name: str, link: AbstractAsyncContextManager[Guest]) -> AsyncIterator[Finding]:
    """The link, and the readers at its other end; the first finding tells whether it works."""
    probe = f"link to {name}"
    failure: Exception | None = None
    snapshot = Snapshot()
    try:
        async with asyncio.timeout(_LINK_TIME), link as guest:
            snapshot = guest.snapshot
    except TimeoutError:
        yield problem(
            probe,
            f"no answer within {_LINK_TIME:g} s",
            "if it is not just busy, its agent hangs: `cardferry status` there names it; kill -9 it, and try again",
        )
        return
    except (OSError, CardferryError) as error:
        failure = error
    if isinstance(failure, UserError):
        yield problem(probe, failure.message, failure.hint)
    elif failure is not None:
        yield problem(probe, str(failure), "install the same version of cardferry on both sides")
    else:
        yield ok(probe, "it works: cardferry is at both ends")
        for trouble in snapshot.troubles:
            yield problem(f"readers on {name}", trouble.says, trouble.hint)
        if snapshot.readers or not snapshot.troubles:
            for finding in about_readers(f"readers on {name}", snapshot.readers, needed=True):
                yield finding


async def _forwarding(connection: SshConnection, path: Path, level: int | None, linked: bool) -> AsyncIterator[Finding]:
    """The way without cardferry over there: a forwarded socket. Not needed where the link works."""
    host = connection.destination
    try:
        await forward_pcscd(connection, path)
    except TransportError as error:
        make = note if linked else problem
        yield make(f"pcscd on {host}", error.message, error.hint)
        return
    yield ok(f"pcscd on {host}", f"answers at {connection.facts.pcscd}, its socket can be forwarded")
    async for finding in readers_at(f"readers on {host}", path, needed=True, library=level):
        if not linked or "speaks 4:" in finding.says:
            yield finding
