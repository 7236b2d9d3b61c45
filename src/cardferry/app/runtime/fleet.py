"""What the configuration of this account or computer says of a fleet, for those who dial and listen."""

from __future__ import annotations

from pathlib import Path

from cardferry.app.runtime.configuration_path import find_configuration
from cardferry.policy.configuration_file import parse, read_text
from cardferry.policy.fleet_table import fleet_settings
from cardferry.transports.base import Address
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.nats.settings import FleetSettings, parse_servers
from cardferry.transports.registry import parse_listening


def configured_fleet(named: Path | None = None, servers: str | None = None) -> FleetSettings:
    """The table ``[fleet]``.

    Args:
        named: the configuration, by ``--config``.
        servers: NATS servers that are named besides, in the place of the table's; none if it is empty.

    Raises:
        UserError: the configuration is wrong, or the servers are none.
    """
    path = find_configuration(named)
    text = "" if path is None else read_text(path)
    settings = fleet_settings(parse(text, str(path)), text, str(path))
    return settings.at(parse_servers(servers)) if servers else settings


def listening_address(text: str, named: Path | None = None) -> Address:
    """What ``--listen`` is given, with what the configuration says; raises `UserError`."""
    address = parse_listening(text)
    return address.knowing(configured_fleet(named)) if isinstance(address, FleetAddress) else address


def configured_places() -> list[str]:
    """Where the configuration has a `cardferry host` listen, as after ``--listen``; raises `UserError`.

    A place in a fleet has the servers in it, without what is secret in their URLs.
    """
    path = find_configuration()
    table = parse(read_text(path), str(path)).get("host", {}) if path is not None else {}
    listen = table.get("listen", [])
    listen = listen if isinstance(listen, list) else [listen]
    fleet = host_in_fleet(table.get("fleet"), table.get("fleet-name"), ())
    return [_with_servers(listening_address(one)) for one in (*listen, *fleet)]


def _with_servers(address: Address) -> str:
    if not isinstance(address, FleetAddress):
        return address.listening_name
    return str(FleetAddress(address.name, address.service.servers_without_secrets, address.files))


def host_in_fleet(
    servers: str | None, name: str | None, labels: tuple[str, ...], named: Path | None = None
) -> tuple[str, ...]:
    """What to listen at besides, because of ``--fleet`` or the configuration.

    A host enters a fleet when it is told to, or when the configuration names it.

    Args:
        servers: of ``--fleet``; empty for those of the configuration, None where that was not given.
    """
    settings = configured_fleet(named)
    if servers is None and name is None and not labels and not settings.name:
        return ()
    given = parse_servers(servers) if servers else ()
    return (str(FleetAddress.here(settings, name, given, labels)),)
