"""Reaching the pcscd of the other side: its socket, forwarded to one here, and why that may not work."""

from __future__ import annotations

from pathlib import Path

from cardferry.transports.errors import PcscdDownError, PcscdMissingError, PcscdRefusesError, TransportError
from cardferry.transports.probe import Answer, ask_version
from cardferry.transports.sockets import PathUnusableError, unfit
from cardferry.transports.ssh.connection import SshConnection
from cardferry.transports.ssh.errors import FORWARDING_HINT, ForwardingRefusedError


async def forward_pcscd(connection: SshConnection, local: Path) -> None:
    """Make the other side's pcscd reachable at ``local``, and see it answer.

    Raises:
        PcscdMissingError: there is no socket over there.
        PcscdDownError: nobody listens on it.
        PcscdRefusesError: it takes connections and drops them.
        ForwardingRefusedError: sshd does not forward to sockets.
        PathUnusableError: what the other side calls its pcscd's path is none.
    """
    path = connection.facts.pcscd
    if not path:
        raise _missing(connection)
    if wrong := unfit(path):
        raise PathUnusableError(
            f"{connection.destination} says that its pcscd is at {path!r}: that {wrong}",
            "over there, see what PCSCLITE_CSOCK_NAME is set to, and unset it",
        )
    await connection.forward_to_remote(local, path)
    mark = connection.complaint_count()
    answer = await ask_version(local)
    if answer is Answer.ANSWERED:
        return
    if answer is Answer.SILENT:
        raise PcscdDownError(
            f"pcscd on {connection.destination} does not answer at {path}",
            "restart it over there: systemctl restart pcscd",
        )
    if await connection.refused_since(mark):
        raise await _not_reached(connection, path)
    raise PcscdRefusesError(
        f"pcscd on {connection.destination} turned us away",
        "its polkit rule org.debian.pcsc-lite.access_pcsc denies sessions from outside: allow the account there"
        " (docs/troubleshooting.md has a rule to paste), or run `cardferry share` on that computer, from its desktop"
        " session",
    )


def _missing(connection: SshConnection) -> PcscdMissingError:
    if "pcscd" in connection.facts.installed:
        hint = "start it over there: systemctl enable --now pcscd.socket"
    else:
        hint = "where the reader is at that computer, install it over there: apt install pcscd; "
        hint += "where it is at this one: cardferry share"
    return PcscdMissingError(f"there is no pcscd socket on {connection.destination}", hint)


async def _not_reached(connection: SshConnection, path: str) -> TransportError:
    """Sshd answers alike when it may not forward and when nobody listens: the guard can tell, on Linux."""
    seen = await connection.ask("look", path)
    if seen.values.get("listening") == "yes":
        return ForwardingRefusedError(
            f"the ssh server of {connection.destination} does not forward sockets",
            FORWARDING_HINT,
        )
    return PcscdDownError(
        f"nobody listens at {path} on {connection.destination}",
        "start pcscd over there: systemctl restart pcscd.socket"
        + ("" if "listening" in seen.values else "; or its sshd forbids forwarding (AllowStreamLocalForwarding)"),
    )
