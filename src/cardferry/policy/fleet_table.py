"""The table ``[fleet]`` of the configuration file: which NATS service, and what this computer is called there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cardferry.policy.configuration_file import NO_TEXT, ConfigurationError, line_of, quotes_hint, unknown_key
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.settings import FleetSettings, checked_name, parse_label, parse_servers

#: What it is called.
TABLE: Final = "fleet"
#: Key -> what its value is, in words.
KEYS: Final = {
    "servers": "URLs of NATS servers, any one of which will do",
    "credentials": "file of NATS credentials, or with an nkey's seed",
    "ca": "who has signed the servers' certificates, in PEM",
    "cert": "the certificate that this end shows to the servers, in PEM",
    "key": "the key of cert",
    "name": "what this computer is called in the fleet; a `cardferry host` with it enters",
    "labels": "what is said of this computer as a host",
    "replicas": "servers that keep the directory",
}
#: Keys whose values are files.
FILES: Final = ("credentials", "ca", "cert", "key")
_EXAMPLE: Final = "correct it; docs/fleet.md has an example"
_TEXTS: Final = (*FILES, "name")
#: The replicas that JetStream takes.
_REPLICAS: Final = range(6)


def fleet_settings(document: dict[str, Any], text: str, file: str) -> FleetSettings:
    """What a document says of a fleet; nothing, if there is no such table.

    Args:
        document: the whole.
        text, file: as it is written, and the file's name, for errors.

    Raises:
        ConfigurationError: something in it is wrong.
    """
    table = document.get(TABLE, {})

    def wrong(key: str, why: str, hint: str = _EXAMPLE) -> ConfigurationError:
        return ConfigurationError(f"{file}, line {line_of(text, (TABLE, key))}: {key}: {why}", hint)

    if not isinstance(table, dict):
        raise wrong("", "[fleet] is a table")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise unknown_key(key, list(KEYS), f"{file}, line {line_of(text, (TABLE, key))}", f"[{TABLE}]")
        try:
            values[key] = _value(key, value)
        except AddressSyntaxError as error:
            raise wrong(key, error.message, error.hint) from None
        except ValueError as error:
            raise wrong(key, str(error), quotes_hint(key, value) or _EXAMPLE) from None
    if ("cert" in values) != ("key" in values):
        raise wrong("cert" if "cert" in values else "key", "cert and key belong together")
    return FleetSettings(**values)


def _value(key: str, value: Any) -> Any:
    """A value of the table; raises `AddressSyntaxError` or `ValueError`."""
    if key in _TEXTS:
        if not isinstance(value, str):
            raise ValueError(NO_TEXT)
        return checked_name(value) if key == "name" else str(Path(value).expanduser())
    if key == "servers":
        each = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in each):
            raise ValueError(f"{NO_TEXT}, or several in [ ]")
        if not each:
            raise ValueError("there is none in it")
        return tuple(url for one in each for url in parse_servers(one, secrets=True))
    if key == "labels":
        if not isinstance(value, dict):
            raise ValueError("it is a table, as in { pool = 'signing' }")
        return dict(parse_label(f"{name}={said}") for name, said in value.items())
    if value not in _REPLICAS or isinstance(value, bool):
        raise ValueError("it is a number from 0 to 5")
    return value
