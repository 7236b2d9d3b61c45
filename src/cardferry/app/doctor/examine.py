"""Runs all probes, one after the other, each for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from cardferry.app import control
from cardferry.app.control import Running
from cardferry.app.doctor import here, programs, there
from cardferry.app.doctor.finding import Finding, problem
from cardferry.app.host import Host
from cardferry.app.lifetime import root_cause
from cardferry.app.paths import runtime_folder
from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshCommand


async def examine(host: Host | None, ssh: SshCommand, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """All findings, as they are made.

    Args:
        host: also look there; this computer then needs no pcscd.
        ssh: the ssh program.
        environ: the environment that programs would have.
    """
    running: list[Running] = []
    try:
        running = control.running(runtime_folder())
    except UserError as error:
        yield problem("sockets", error.message, error.hint)
    attached = any(one.command != "share" for one in running)
    probes = [
        ("library", here.library()),
        ("pcscd here", here.own_pcscd(needed=host is None and not attached)),
        ("sockets", _each(here.sockets(running))),
        ("environment", _each(here.environment(running, environ))),
        ("privileged programs", programs.privileged()),
        ("gnupg", programs.gnupg(running, environ)),
    ]
    if host is not None:
        probes.append(("host", there.host(host, ssh)))
    for name, findings in probes:
        async for finding in _guarded(name, findings):
            yield finding


async def _each(findings: Iterator[Finding]) -> AsyncIterator[Finding]:
    for finding in findings:
        yield finding


async def _guarded(name: str, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    try:
        async for finding in findings:
            yield finding
    except (UserError, OSError, BaseExceptionGroup) as error:
        cause = root_cause(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(cause, UserError):
            yield problem(name, cause.message, cause.hint)
        elif isinstance(cause, OSError):
            yield problem(name, f"cannot look: {cause}", "try again as a user who may")
        else:
            raise
