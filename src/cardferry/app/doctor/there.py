"""Probes of the host: the login, what is installed there, its pcscd, readers and cards."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.reading import look
from cardferry.app.host import Host, PcscdHost, SshHost, spelled
from cardferry.app.origin import check_pcscd
from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshCommand, connect, forward_pcscd


async def host(wanted: Host, ssh: SshCommand) -> AsyncIterator[Finding]:
    """Go the whole way to the host's cards."""
    match wanted:
        case SshHost(destination):
            async for finding in _over_ssh(destination, ssh):
                yield finding
        case PcscdHost(path):
            try:
                await check_pcscd(path)
            except UserError as error:
                yield problem(spelled(wanted), error.message, error.hint)
                return
            async for finding in look(spelled(wanted), path, needed=True):
                yield finding
        case _:
            yield note(spelled(wanted), "that is made here, nothing to look at")


async def _over_ssh(destination: str, ssh: SshCommand) -> AsyncIterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="cardferry-") as folder:
        async with connect(destination, ssh, Path(folder)) as connection:
            facts = connection.facts
            yield ok(f"ssh {destination}", f"logged in as user {facts.uid} on {facts.system}")
            if not facts.terminal:
                yield note(
                    f"ssh {destination}",
                    "its sshd gives no terminals, so small messages wait for acknowledgements (40 ms each)",
                    "PermitTTY yes in its sshd_config",
                )
            if "cardferry" not in facts.installed:
                yield note(f"ssh {destination}", "cardferry is not installed there; plain forwarding is used")
            path = Path(folder) / "pcscd"
            try:
                await forward_pcscd(connection, path)
            except UserError as error:
                yield problem(f"pcscd on {destination}", error.message, error.hint)
                return
            yield ok(f"pcscd on {destination}", f"answers at {facts.pcscd}")
            async for finding in look(f"readers on {destination}", path, needed=True):
                yield finding
