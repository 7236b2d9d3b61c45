"""``[pool.NAME]`` in the configuration file: which readers are one pool.

    [pool.signing]
    members = ["laptop", "tls://lab1", "unix:/run/cardferry.sock"]
    readers = "Yubico*"

A member is a HOST as `cardferry attach` takes it; without ``readers`` all readers of all members are meant. ``subject``
and ``serial`` choose by the card. Without ``members`` the hosts of the fleet are meant that have the ``label``,
``pool=NAME`` if none is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cardferry.app.hosts.address import HostAddress
from cardferry.app.runtime.configuration_path import find_configuration, own_configuration
from cardferry.policy.configuration_file import ConfigurationError, line_of, parse, read_text, unknown_key, wrong_value
from cardferry.policy.patterns import rank
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.settings import parse_label

POOL: Final = "pool"
#: What programs are shown is the name of a reader.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    members: list[str] = []
    readers: str | list[str] = []
    subject: str | list[str] = []
    serial: str | list[str] = []
    label: str = ""


@dataclass(frozen=True, slots=True)
class PoolTable:
    """A pool.

    Attributes:
        name: what programs call its reader.
        members: each a HOST; none where the hosts of a fleet are meant.
        readers: patterns of the names of their readers that are meant; none means all.
        subjects, serials: patterns of what their cards are: whom a certificate is about, and the card's number.
        label: of the hosts of a fleet that are meant, as in ``pool=signing``.
        file: where it is written, file and line, for errors.
    """

    name: str
    members: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()
    label: str = ""
    file: str = ""

    def hosts(self, parse: Callable[[str], HostAddress]) -> tuple[HostAddress, ...]:
        """Where the members are.

        Args:
            parse: makes a HOST of each.

        Raises:
            ConfigurationError: one is no HOST, or a pool itself.
        """
        found: dict[HostAddress, None] = {}
        for member in self.members:
            try:
                found[parse(member)] = None
            except AddressSyntaxError as error:
                raise ConfigurationError(f"{self.file}: [{POOL}.{self.name}]: {error.message}", error.hint) from None
            if member.casefold().startswith(f"{POOL}:"):
                raise ConfigurationError(
                    f"{self.file}: [{POOL}.{self.name}]: {member} is a pool itself",
                    f"name the members of {member} there",
                )
        return tuple(found)

    def without_servers(self) -> ConfigurationError:
        """What to tell people where it lists nobody, and there is no fleet whose hosts it could mean."""
        if not self.label:
            return ConfigurationError(
                f"{self.file}: [{POOL}.{self.name}] has no members",
                'write below it members = ["HOST", "HOST"]; for hosts of a fleet, a table [fleet] with servers',
            )
        return ConfigurationError(
            f"{self.file}: [{POOL}.{self.name}] means hosts of a fleet with the label {self.label}, "
            "and there is no table [fleet] with servers",
            'write [fleet] and below it servers = ["nats://HOST"]; docs/fleet.md has an example',
        )

    def means(self, reader: str) -> bool:
        """Whether a reader of a member is one of the pool, by the name that it has there."""
        return rank(reader, self.readers) is not None

    @property
    def asks_cards(self) -> bool:
        """Whether it matters which card it is."""
        return bool(self.subjects or self.serials)

    def means_card(self, serials: Sequence[str], subjects: Sequence[str]) -> bool:
        """Whether a card is one of the pool, by its numbers and whom its certificates are about."""
        return all(
            not patterns or any(rank(one, patterns) is not None for one in of_card)
            for patterns, of_card in ((self.serials, serials), (self.subjects, subjects))
        )


def is_name(name: str) -> bool:
    """Whether a pool can be called so."""
    return _NAME.fullmatch(name) is not None


def pool_table(name: str, path: Path | None = None) -> PoolTable | None:
    """The pool of that name; None when there is no file, or it has no such table.

    Args:
        name: of the pool.
        path: the file; None for the one that holds.

    Raises:
        ConfigurationError: it is not as it must be.
    """
    path = path or find_configuration()
    return None if path is None else next((one for one in pool_tables(path, name)), None)


def pool_tables(path: Path, only: str | None = None) -> Iterator[PoolTable]:
    """All pools of a file, or the one of a name; raises `ConfigurationError`."""
    text = read_text(path)
    tables = parse(text, str(path)).get(POOL, {})
    if not isinstance(tables, dict):
        raise ConfigurationError(f"{path}: {POOL} is no table", "write it as [pool.NAME]")
    for name, values in tables.items():
        if only in (None, name):
            yield _table(name, values, text, str(path))


def _table(name: str, values: Any, text: str, file: str) -> PoolTable:
    def where(*key: str) -> str:
        return f"{file}, line {line_of(text, (POOL, name, *key))}"

    if not is_name(name):
        raise ConfigurationError(
            f"{where()}: {name!r} is no name of a pool", "up to 64 letters, digits, dots, dashes and underscores"
        )
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where()}: {name} is no table", "write it as [pool.NAME]")
    known = _Keys.__struct_fields__
    if (strange := next((key for key in values if key not in known), None)) is not None:
        raise unknown_key(strange, list(known), where(strange), f"[{POOL}.{name}]")
    try:
        keys = msgspec.convert(dict(values), _Keys)
    except msgspec.ValidationError as error:
        raise wrong_value(str(error), values, (POOL, name), text, file) from None
    if "members" in values and not keys.members:
        raise ConfigurationError(
            f"{where('members')}: members is empty", "name at least one HOST; for hosts of a fleet, leave it out"
        )
    if keys.members and keys.label:
        raise ConfigurationError(
            f"{where('label')}: label is for hosts of a fleet, and members for a list of them",
            "leave out one of the two",
        )
    if keys.label:
        try:
            parse_label(keys.label)
        except AddressSyntaxError as error:
            raise ConfigurationError(f"{where('label')}: {error.message}", error.hint) from None
    return PoolTable(
        name,
        tuple(dict.fromkeys(keys.members)),
        _several(keys.readers),
        _several(keys.subject),
        _several(keys.serial),
        keys.label,
        where(),
    )


def _several(patterns: str | list[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def place() -> Path:
    """The file in which a pool can be written: the one that holds, else the account's own."""
    return find_configuration() or own_configuration()
