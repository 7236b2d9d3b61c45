"""Runs all probes, one after the other, each for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from cardferry.app.commands.variable import VARIABLE
from cardferry.app.doctor import here, programs, there
from cardferry.app.doctor.finding import Finding, problem
from cardferry.app.doctor.levels import library_level
from cardferry.app.hosts.address import HostAddress
from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.status_socket import Running
from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshCommand


async def examine(host: HostAddress | None, ssh: SshCommand, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """All findings, as they are made.

    Args:
        host: also look there; this computer then needs no pcscd.
        ssh: the ssh program.
        environ: the environment that programs would have.
    """
    folder = None
    running: list[Running] = []
    try:
        folder = runtime_folder(environ)
        silent: list[tuple[str, str]] = []
        running = control.all_running(folder, lambda *one: silent.append(one))
        for says, hint in silent:
            yield problem("processes", says, hint)
    except UserError as error:
        yield problem("sockets", error.message, error.hint)
    for finding in here.troubles(running):
        yield finding
    level = None
    try:
        level = await library_level()
    except OSError as error:
        yield _unseen("library", error)
    remote = bool(host is not None or here.serving(running) or environ.get(VARIABLE))
    probes = [
        ("library", _each(here.library(level, needed=remote))),
        ("pcscd here", here.own_pcscd(not remote, level)),
        ("environment", here.environment(running, environ, level)),
        ("privileged programs", programs.privileged()),
        ("gnupg", programs.gnupg(running, environ)),
        ("ssh-agent", _each(programs.ssh_agent(running, environ))),
    ]
    if folder is not None:
        probes.insert(2, ("sockets", here.sockets(running, folder)))
        if host is not None:
            probes.append(("sockets", _each(here.paths(folder, host))))
            probes.append(("host", there.host(host, ssh, folder, running, level)))
    for name, findings in probes:
        async for finding in guarded(name, findings):
            yield finding


async def _each(findings: Iterator[Finding]) -> AsyncIterator[Finding]:
    for finding in findings:
        yield finding


async def guarded(name: str, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    """The findings of one probe; one that fails is a finding, too, and does not keep the next one from looking."""
    try:
        async for finding in findings:
            yield finding
    except (UserError, OSError, BaseExceptionGroup) as error:
        cause = root_cause(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(cause, UserError):
            yield problem(name, cause.message, cause.hint)
        elif isinstance(cause, OSError):
            yield _unseen(name, cause)
        else:
            raise


def _unseen(name: str, error: OSError) -> Finding:
    again = "try again as a user who may" if isinstance(error, PermissionError) else "try again later"
    return problem(name, f"cannot look: {str(error) or type(error).__name__}", again)
