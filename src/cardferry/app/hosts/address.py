"""Where readers are, as people write it: ``HOST`` on the command line, parsed to values.

An ssh destination is anything without a scheme (``name``, ``user@name``, an alias of ``~/.ssh/config``) or an
``ssh://`` URL; the rest names something on this computer.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.vsock import ANY, VsockAddress

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]+")
#: What ssh's own configuration may hand to a shell (``ProxyCommand``, ``Match exec``), as hints do that name a host;
#: OpenSSH refuses these since 9.6 (``ssh.c``: ``valid_hostname``, ``valid_ruser``).
_FOR_SHELLS: Final = frozenset("'`\"$;&<>|(){}")
_MAX_PORT: Final = 65535
#: Characters of the longest name derived from a host, so that socket paths stay within 107 bytes.
_MAX_LABEL: Final = 40


class HostSyntaxError(UserError):
    """This is not a HOST."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class SshHost:
    """Another computer, reached with OpenSSH; ``destination`` is ssh's own word for it."""

    destination: str


@dataclass(frozen=True, slots=True)
class PcscdHost:
    """A pcsc-lite socket on this computer."""

    path: Path


@dataclass(frozen=True, slots=True)
class UnixHost:
    """A socket at which another cardferry takes links (`cardferry host --listen`)."""

    path: Path


@dataclass(frozen=True, slots=True)
class VsockHost:
    """A port of a virtual machine, or of the computer that this one runs on, at which a cardferry takes links."""

    address: VsockAddress


@dataclass(frozen=True, slots=True)
class VpiccHost:
    """Cards that dial in, as they do to vpcd: to a TCP port of this computer, or to a Unix socket.

    Any user of this computer can reach the port; the socket has access rights.
    """

    where: int | Path


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The built-in card."""


#: Where a link is dialled without ssh; there is no other way to such a host.
LinkHost = UnixHost | VsockHost

Host = SshHost | PcscdHost | UnixHost | VsockHost | VpiccHost | VirtualHost

#: The pcscd of this computer.
LOCAL_PCSCD: Final = PcscdHost(Path("/run/pcscd/pcscd.comm"))

#: What people can write, for errors and ``--help``.
FORMS: Final = (
    "[user@]name, ssh://[user@]name[:port], pcscd:PATH, unix:PATH, vsock://CID:PORT, "
    "vpicc:PORT, vpicc:unix:PATH, virtual:"
)


def parse_host(text: str) -> Host:
    """Parse ``HOST``; raises `HostSyntaxError`."""
    match = _SCHEME.fullmatch(text)
    if match is None or _is_address(text):
        return SshHost(_destination(text))
    scheme, rest = match[1].lower(), match[2]
    match scheme:
        case "ssh" if rest.startswith("//"):
            return SshHost(_destination(text))
        case "pcscd":
            return PcscdHost(socket_path(rest, text, "pcscd:/run/pcscd/pcscd.comm"))
        case "unix":
            return UnixHost(socket_path(rest, text, "unix:/run/cards/link"))
        case "vsock":
            return VsockHost(_address(rest, text))
        case "vpicc" if rest.startswith(("/", "unix:")):
            return VpiccHost(socket_path(rest.removeprefix("unix:"), text, "vpicc:unix:/run/cards/card"))
        case "vpicc":
            return VpiccHost(_port(rest, text))
        case "virtual" if not rest:
            return VirtualHost()
    if rest.isdigit():
        raise HostSyntaxError(f"not a HOST: {text!r}", f"for another port write ssh://{match[1]}:{rest}")
    raise HostSyntaxError(f"not a HOST: {text!r}", f"HOST is one of {FORMS}")


def label(host: Host) -> str:
    """A short name for the host that can be a file's name."""
    match host:
        case SshHost(destination):
            text = destination.removeprefix("ssh://").rstrip("/")
        case PcscdHost(path):
            text = f"pcscd{path}"
        case UnixHost(path):
            text = f"unix{path}"
        case VsockHost(address):
            text = f"vsock-{address.cid}-{address.port}"
        case VpiccHost(where):
            text = f"vpicc-{where}".replace("-/", "/")
        case VirtualHost():
            text = "virtual"
    return _UNSAFE.sub("-", text).strip(".-")[:_MAX_LABEL] or "host"


def spelled(host: Host) -> str:
    """The host as a person writes it; `parse_host` gives it back."""
    match host:
        case SshHost(destination):
            return destination
        case PcscdHost(path):
            return f"pcscd:{path}"
        case UnixHost(path):
            return f"unix:{path}"
        case VsockHost(address):
            return str(address)
        case VpiccHost(int() as port):
            return f"vpicc:{port}"
        case VpiccHost(path):
            return f"vpicc:unix:{path}"
        case VirtualHost():
            return "virtual:"


def _is_address(text: str) -> bool:
    """Whether it is an IPv6 address, with or without a user: its colons are no scheme."""
    try:
        ipaddress.IPv6Address(text.rpartition("@")[2].partition("%")[0])
    except ValueError:
        return False
    return True


def _destination(text: str) -> str:
    name = text.removeprefix("ssh://")
    if not name.strip("/") or any(part.startswith("-") or not part for part in name.split("@")):
        raise HostSyntaxError(f"not a HOST: {text!r}", f"HOST is one of {FORMS}")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise HostSyntaxError(f"not a HOST: {text!r}", "a host's name has no blanks; give ssh's options with -e/--ssh")
    if _FOR_SHELLS.intersection(text):
        raise HostSyntaxError(
            f"not a HOST: {text!r}", "a host's name has no quotes, and nothing else that means something to a shell"
        )
    return text


def socket_path(rest: str, text: str, example: str) -> Path:
    """The path in ``text``; raises `HostSyntaxError` when it is not absolute."""
    if not rest.startswith("/"):
        raise HostSyntaxError(f"not a socket's path: {text!r}", f"write it absolute, as in {example}")
    return Path(rest)


def _address(rest: str, text: str) -> VsockAddress:
    hint = "write it as in vsock://2:35960; 2 is the computer that a virtual machine runs on"
    try:
        address = VsockAddress.parse(rest.removeprefix("//"))
    except ValueError:
        raise HostSyntaxError(f"not a port of a machine: {text!r}", hint) from None
    if address.cid == ANY:
        raise HostSyntaxError(f"not a port of one machine: {text!r}", hint)
    return address


def _port(rest: str, text: str) -> int:
    if not rest.isascii() or not rest.isdigit() or not 0 < int(rest) <= _MAX_PORT:
        raise HostSyntaxError(f"not a port: {text!r}", "write it as in vpicc:35963, vpcd's own")
    return int(rest)
