"""Which NATS service a fleet has, and what to prove oneself with there: the table ``[fleet]`` of the configuration."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cardferry.transports.errors import AddressSyntaxError

#: What hosts and guests of a fleet are called, and labels and their values: one token of a NATS subject.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
NAME_HINT: Final = "use letters, digits, - and _, at most 63, as in LAB-7"
PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_SERVER_HINT: Final = "write it as in nats://nats.example.org:4222, several with commas between them"


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """See the module.

    Attributes:
        servers: URLs, of which any one will do; empty where none are known.
        credentials: file of NATS credentials (``.creds``), or with an nkey's seed; empty for none.
        ca, cert, key: files in PEM for TLS with the servers: who is believed, and what this end shows; empty for none.
        name: what this computer is called in the fleet; empty for its own name, up to the first dot.
        labels: of this computer as a host, for those who look for one.
        replicas: servers that keep the directory; 0 for as many as there are, up to three.
    """

    servers: tuple[str, ...] = ()
    credentials: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    replicas: int = 0

    @property
    def token(self) -> str:
        """The name of this computer in subjects."""
        return self.name or own_name()

    def at(self, servers: Sequence[str]) -> FleetSettings:
        """The same with other servers, if there are any; those that are among its own as they are written there.

        For these may have a password, which is not in what people are shown or send each other.
        """
        own = {public(one): one for one in self.servers}
        return replace(self, servers=tuple(own.get(one, one) for one in servers)) if servers else self

    @property
    def servers_without_secrets(self) -> tuple[str, ...]:
        """The servers as others may see them."""
        return tuple(map(public, self.servers))

    def reason(self, message: str) -> str:
        """What an error says, whichever of the servers it is about."""
        for one in self.servers_without_secrets:
            message = message.replace(one, "a server")
        return message

    def __str__(self) -> str:
        """The servers, without what is secret in their URLs."""
        return ",".join(self.servers_without_secrets)


def own_name() -> str:
    """What this computer is called in a fleet unless somebody says otherwise."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0]).strip("-_")[:63] or "unnamed"


def checked_name(text: str, what: str = "a name in a fleet") -> str:
    """The text, if it is a name; raises `AddressSyntaxError`."""
    if not NAME.fullmatch(text):
        raise AddressSyntaxError(f"not {what}: {text!r}", NAME_HINT)
    return text


def parse_label(text: str) -> tuple[str, str]:
    """``key=value``; raises `AddressSyntaxError`."""
    key, equals, value = text.partition("=")
    if not equals or not NAME.fullmatch(key) or not NAME.fullmatch(value):
        raise AddressSyntaxError(f"not a label: {text!r}", f"write it as in pool=signing; {NAME_HINT}")
    return key, value


def parse_servers(text: str, *, secrets: bool = False) -> tuple[str, ...]:
    """URLs with commas between them.

    Args:
        secrets: whether there may be a password or token in them.

    Raises:
        AddressSyntaxError: one of them is none.
    """
    found = []
    for one in text.split(","):
        url = one.strip() if "://" in one else f"nats://{one.strip()}"
        split = _split(url)
        if split is None:
            raise AddressSyntaxError(f"not a NATS server: {one.strip()!r}", _SERVER_HINT)
        if not secrets and "@" in split.netloc:
            raise AddressSyntaxError(
                f"a password in {public(url)} would be seen by everybody here",
                "write the URL as servers in the table [fleet] of the configuration, or a file as credentials there",
            )
        found.append(url)
    return tuple(found)


def public(url: str) -> str:
    """A URL without user, password and token."""
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()


def host_and_port(url: str) -> tuple[str, int]:
    """Where a server is."""
    split = urlsplit(url)
    return split.hostname or "", split.port or PORT


def _split(url: str) -> SplitResult | None:
    try:
        split = urlsplit(url)
        fits = split.scheme in _SCHEMES and bool(split.hostname) and (split.port is None or split.port > 0)
    except ValueError:
        return None
    return split if fits and not re.search(r"[\s,?'\"]", url) else None
