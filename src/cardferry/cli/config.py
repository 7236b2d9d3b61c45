"""``cardferry config``: whether the configuration file is right, and what it means: options of commands, and rules."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cardferry.cli.configured import Table, keys, tables, tried, words
from cardferry.cli.say import say
from cardferry.cli.tls_options import OPTIONS as TLS_FILES

if TYPE_CHECKING:
    from cardferry.app.hosts.pool_table import PoolTable
    from cardferry.policy.rules import Rule

_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="another file than the account's own"
)


@click.group("config")
def command() -> None:
    """Check the configuration file, and show what it means.

    It is ~/.config/cardferry/config.toml, else /etc/cardferry/config.toml. [attach.HOST] and [share.HOST] have options
    for `cardferry attach HOST` and `cardferry share HOST`, [host] those of `cardferry host`; each key is an option
    without its dashes. [pool.NAME] has the members of pool:NAME, [fleet] says where the NATS service of a fleet is.
    [[allow]] and the keys at the top are the rules: see `cardferry policy`.
    """


@command.command("check")
@_config
def check(config: Path | None) -> None:
    """See whether all of it is right."""
    path = _file(config)
    if path is None:
        return
    from cardferry.app.runtime.configuration import rulebook  # noqa: PLC0415
    from cardferry.policy.fleet_table import TABLE  # noqa: PLC0415

    rules = rulebook(config)
    document = _document(path)
    found = [f"{table}" for _, table in _checked(path)] + [f"[pool.{pool.name}]" for pool in _pools(path)]
    found += [f"[{TABLE}]"] if TABLE in document else []
    say(f"{path} is right: {', '.join(found) or 'no options of commands'}; {rules.in_a_line()}")
    for where, named in _files(path, document, rules.configuration.rules):
        if not named.exists():
            say(f"note: {where}: there is no file {named} on this computer")


@command.command("show")
@_config
@click.pass_context
def show(context: click.Context, config: Path | None) -> None:
    """Show what it says and what that means."""
    path = _file(config)
    if path is None:
        return
    from cardferry.cli import policy  # noqa: PLC0415 - rich
    from cardferry.cli import tables as shown  # noqa: PLC0415

    say(str(path))
    for its, table in _checked(path):
        called = [table.command, *([table.name] if table.name else [])]
        means = [table.command, *words(its, table)]
        say(f"{table}: `cardferry {shlex.join(called)}` means cardferry {shlex.join(means)}")
        helps = {key: getattr(one, "help", None) or "whom it is about" for key, one in keys(its).items()}
        shown.show(("key", "value", "means"), [(key, str(value), helps[key]) for key, value in table.values.items()])
    for pool in _pools(path):
        say(f"[pool.{pool.name}]: `cardferry attach pool:{pool.name}` shows one reader that stands for these")
        members = pool.members or (f"hosts of the fleet with the label {pool.label or f'pool={pool.name}'}",)
        shown.show(
            ("member", "readers", "certificates", "serial numbers"),
            [
                (member, *(list(which) or "all" for which in (pool.readers, pool.subjects, pool.serials)))
                for member in members
            ],
        )
    if fleet := _fleet(path):
        say("[fleet]: where hosts and guests find each other, and meet")
        shown.show(("key", "value", "means"), fleet)
    context.invoke(policy.show, config=config)


def _fleet(path: Path) -> list[tuple[str, str, str]]:
    """What the table of a fleet says and means, without what is secret."""
    from cardferry.policy.configuration_file import read_text  # noqa: PLC0415
    from cardferry.policy.fleet_table import KEYS, TABLE, fleet_settings  # noqa: PLC0415

    text, document = read_text(path), _document(path)
    values = {**document.get(TABLE, {}), "servers": str(fleet_settings(document, text, str(path)))}
    return [(key, str(values[key]), KEYS[key]) for key in document.get(TABLE, {})]


def _document(path: Path) -> dict[str, Any]:
    from cardferry.policy.configuration_file import parse, read_text  # noqa: PLC0415

    return parse(read_text(path), str(path))


def _files(path: Path, document: dict[str, Any], rules: Sequence[Rule]) -> Iterator[tuple[str, Path]]:
    """The files that must be there wherever the configuration is used, and where each is named."""
    from cardferry.policy.fleet_table import FILES, TABLE  # noqa: PLC0415

    named = [(f"[{TABLE}] {key}", document.get(TABLE, {}).get(key)) for key in FILES]
    named += [(f"{table} {key}", table.values.get(key)) for table in tables(path) for key in TLS_FILES]
    named += [(f"{rule} pin-from", rule.pin_from.name) for rule in rules if rule.pin_from and rule.pin_from.is_file]
    yield from ((where, Path(name).expanduser()) for where, name in named if name)


def _file(config: Path | None) -> Path | None:
    from cardferry.app.runtime.configuration_path import SYSTEM, find_configuration, own_configuration  # noqa: PLC0415

    path = find_configuration(config)
    if path is None:
        say(f"there is no configuration: neither {own_configuration()} nor {SYSTEM}")
    return path


def _pools(path: Path) -> list[PoolTable]:
    """All pools, once they and their members are known to be right."""
    from cardferry.app.hosts.pool_table import pool_tables  # noqa: PLC0415
    from cardferry.app.hosts.registry import parse_host  # noqa: PLC0415
    from cardferry.app.runtime.fleet import configured_fleet  # noqa: PLC0415

    pools, servers = list(pool_tables(path)), configured_fleet(path).servers
    attached = {table.name: table.values for table in tables(path) if table.command == "attach"}
    for pool in pools:
        pool.hosts(parse_host)
        if not (pool.members or servers or "fleet" in attached.get(f"pool:{pool.name}", {})):
            raise pool.without_servers()
    return pools


def _checked(path: Path) -> Iterator[tuple[click.Command, Table]]:
    """Each table and its command, once it is known to be right."""
    for table in tables(path):
        its: click.Command = importlib.import_module(f"cardferry.cli.{table.command}").command
        tried(its, table)
        yield its, table
