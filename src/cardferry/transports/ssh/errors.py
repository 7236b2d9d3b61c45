"""What can go wrong with OpenSSH, told from its exit status and its own words.

OpenSSH's messages are not translated, but they are written for people: `SYMPTOMS` lists those that OpenSSH 8.4
to 9.9 prints, most telling first, because one failure often prints several lines (a jump host that cannot be found
also "closes the connection" of the host behind it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cardferry.transports.errors import TransportError
from cardferry.transports.lines import last_words

#: ssh's exit status when ssh itself failed; any other is the remote command's (ssh(1), EXIT STATUS).
SSH_FAILED: Final = 255


class SshError(TransportError):
    """ssh ended, or refused something."""

    exit_code = 28


class SshNotInstalledError(SshError):
    """The ssh program cannot be started."""

    exit_code = 20
    heals = False


class HostUnknownError(SshError):
    """The host's name has no address."""

    exit_code = 21


class HostUnreachableError(SshError):
    """No connection to the host's ssh server."""

    exit_code = 22


class HostKeyRefusedError(SshError):
    """The host's key is not known, or not the one that is known."""

    exit_code = 23
    heals = False


class AccessRefusedError(SshError):
    """The host does not let us in."""

    exit_code = 24
    heals = False


class ForwardingRefusedError(SshError):
    """The host's ssh server does not forward sockets for us."""

    exit_code = 25
    heals = False


class NoShellError(SshError):
    """The account over there has no shell to run commands with."""

    exit_code = 26
    heals = False


class SshMisconfiguredError(SshError):
    """ssh does not understand its configuration or arguments."""

    exit_code = 27
    heals = False


class ConnectionLostError(SshError):
    """A connection that stood has ended."""

    exit_code = 28


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that ssh says, and what it means.

    Attributes:
        pattern: found anywhere in one line; its named groups fill the texts.
        error: the class to raise.
        message: the ``error:`` line; ``{host}`` is the destination as the user gave it.
        hint: the ``hint:`` line.
    """

    pattern: re.Pattern[str]
    error: type[SshError]
    message: str
    hint: str


def _symptom(pattern: str, error: type[SshError], message: str, hint: str) -> Symptom:
    return Symptom(re.compile(pattern, re.IGNORECASE), error, message, hint)


SYMPTOMS: tuple[Symptom, ...] = (
    _symptom(
        r"Bad configuration option: (?P<what>\S+)|^(?P<usage>unknown option|Bad .*|usage: ssh)"
        r"|Can't open user config file (?P<file>\S+):",
        SshMisconfiguredError,
        "ssh does not understand what it was told: {line}",
        "see whether `ssh {host}` alone works, and look at -e/--ssh and ~/.ssh/config",
    ),
    _symptom(
        r"^Host key for (?P<key>[\w.:\[\]%-]+) has changed",
        HostKeyRefusedError,
        "the key of {host} is not the one that is known here",
        "if that computer was set up anew: ssh-keygen -R '{key}', then `ssh {host}`; if not, somebody is in between",
    ),
    _symptom(
        r"REVOKED HOST KEY|^Host key .* revoked by file",
        HostKeyRefusedError,
        "the key of {host} was revoked: others may have it, too",
        "ask who runs that computer for its new key; known_hosts (@revoked) or RevokedHostKeys has the old one",
    ),
    _symptom(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        HostKeyRefusedError,
        "the key of {host} is not the one that is known here",
        "if that computer was set up anew: ssh-keygen -R {name}, then `ssh {host}`; if not, somebody is in between",
    ),
    _symptom(
        r"Host key verification failed|No \S+ host key is known for",
        HostKeyRefusedError,
        "the key of {host} is not known here",
        "run `ssh {host}` once, compare the fingerprint and accept the key",
    ),
    _symptom(
        r"Could not resolve hostname (?P<where>\S+?):",
        HostUnknownError,
        "no computer is known by the name {where}",
        "check the spelling, ~/.ssh/config and whether the network is up",
    ),
    _symptom(
        r"Permission denied \((?P<methods>[^)]*)\)|Too many authentication failures|Authentication failed",
        AccessRefusedError,
        "{host} refused the login: {line}",
        "see whether `ssh {host}` lets you in; a key must be in your agent or ~/.ssh, and its public half over there",
    ),
    _symptom(
        r"connect to host (?P<where>\S+) port (?P<port>\d+): (?P<why>.+)",
        HostUnreachableError,
        "{where} does not answer at port {port}: {why}",
        "is that computer on, in reach, and is its ssh server running?",
    ),
    _symptom(
        r"Unable to negotiate with .*?: (?P<why>.+?)(\. Their offer: .*)?$",
        HostUnreachableError,
        "{host} and this computer's ssh have nothing in common: {why}",
        "one side is very old; see ssh_config(5) for the option that allows its algorithms",
    ),
    _symptom(
        r"timed out during banner exchange|Connection timed out|Operation timed out",
        HostUnreachableError,
        "{host} does not answer in time",
        "is that computer on and in reach? `ssh -v {host}` says how far it gets",
    ),
    _symptom(
        r"kex_exchange_identification|ssh_exchange_identification|Connection (closed|reset) by|banner exchange",
        HostUnreachableError,
        "{host} closed the connection before anybody could log in",
        "too many connections at once, a firewall, or a jump host that fails: `ssh -v {host}` says more",
    ),
)

FORWARDING_HINT: Final = (
    "its sshd_config needs `AllowStreamLocalForwarding yes` (and no `DisableForwarding`, no `restrict` for the key)"
)
#: What ssh's master says when the server refuses to open a forwarded socket or to listen for us.
FORWARDING_SYMPTOMS: tuple[Symptom, ...] = (
    _symptom(
        r"remote port forwarding failed|Port forwarding failed",
        ForwardingRefusedError,
        "the ssh server of {host} does not let us offer a socket there",
        FORWARDING_HINT,
    ),
)


def find(symptoms: Sequence[Symptom], lines: Sequence[str], host: str) -> SshError | None:
    """The error for the first of ``symptoms`` that one of ``lines`` shows, or None."""
    for symptom in symptoms:
        for line in lines:
            match = symptom.pattern.search(line)
            if match:
                texts = {key: value or "" for key, value in match.groupdict().items()}
                texts |= {"host": host, "name": host_name(host), "line": line.strip()}
                return symptom.error(symptom.message.format(**texts), symptom.hint.format(**texts))
    return None


def host_name(destination: str) -> str:
    """The host's name in an ssh destination (``user@name``, ``ssh://user@name:port``)."""
    name = destination.removeprefix("ssh://").rpartition("@")[2].rstrip("/")
    if destination.startswith("ssh://"):
        bracketed = re.fullmatch(r"\[(.+)\](:\d+)?", name)
        return bracketed[1] if bracketed else re.sub(r":\d+$", "", name)
    return name


def before_login(lines: Sequence[str], status: int | None, host: str) -> SshError:
    """Why ssh ended before the other side's shell said anything.

    Args:
        lines: what ssh wrote to its standard error.
        status: its exit status; 255 is ssh's own failure, a negative one the signal that ended it, anything else is
            the remote command's.
        host: the destination as the user gave it.
    """
    if status == SSH_FAILED:
        said = last_words(lines)
        return find(SYMPTOMS, lines, host) or SshError(
            f"ssh to {host} failed{': ' + said if said else ''}", f"`ssh -v {host}` says more"
        )
    if status is not None and status < 0:
        return SshError(f"ssh to {host} was ended by signal {-status}", f"see whether `ssh {host}` works")
    return NoShellError(
        f"{host} let us in, but runs no commands for this account",
        f"`ssh {host} true` must work: the account needs a login shell, and the key no forced command",
    )
