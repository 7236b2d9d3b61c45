"""Commands whose options the configuration file can give: ``[attach.laptop]`` is for ``cardferry attach laptop``.

A key is the long name of an option, its value what the option takes; so the options themselves say what is right. What
the command line says comes before what the file says. The rules are in the same file (`cardferry.policy.rules`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from cardferry.app.runtime.configuration_path import find_configuration
from cardferry.pcsc.errors import UserError

#: Commands that have a table for each first word, and the one that has one table.
NAMED: Final = ("attach", "share")
ALONE: Final = ("host",)
#: Options that belong to a call: who it is, in which file to look, how it is started.
_NOT_IN_FILES: Final = frozenset({"config", "stdio", "name", "help"})
_HOSTS: Final = "hosts"
#: In a context's ``meta``: the command is tried, and does nothing.
_TRIED: Final = "cardferry.tried"


@dataclass(frozen=True, slots=True)
class Table:
    """Options of a command in a file.

    Attributes:
        command: which.
        name: the HOST, or what stands for several; empty where there is one table only.
        values: what is written, by key.
        text, file: all that is in the file, and what the file is called, for errors.
    """

    command: str
    name: str
    values: Mapping[str, Any]
    text: str
    file: str

    @property
    def path(self) -> tuple[str, ...]:
        """Where it is in the document."""
        return (self.command, self.name) if self.name else (self.command,)

    def __str__(self) -> str:
        return f"[{'.'.join(word if word.replace('-', '').isalnum() else repr(word) for word in self.path)}]"

    def line(self, key: str) -> int:
        """Where a key is written."""
        from cardferry.policy.configuration_file import line_of  # noqa: PLC0415 - for errors

        return line_of(self.text, (*self.path, key))

    def about(self, message: str) -> str:
        """Which key an error is about: the one whose option or value is in the message; empty when it is none."""
        for key, value in self.values.items():
            words = [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
            if any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", message) for word in words if word):
                return key
        return ""


class Configured(click.Command):
    """A command with a table in the configuration file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, with the table's values in the place of defaults."""
        hosts: tuple[Any, ...] = ()
        if not ctx.resilient_parsing and not {"-h", "--help"}.intersection(args):
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            if (table := self._table(given)) is not None:
                values = checked(self, ctx, table)
                hosts = values.pop(_HOSTS, ())
                ctx.default_map = values
        rest = super().parse_args(ctx, args)
        if hosts:
            ctx.params[_HOSTS] = hosts
        return rest

    def _table(self, given: Mapping[str, Any]) -> Table | None:
        config = given.get("config")
        path = find_configuration(Path(config) if isinstance(config, str) else None)
        if path is None:
            return None
        words: tuple[str, ...] = tuple(given.get(_HOSTS) or ())
        name = words[0] if len(words) == 1 else ""
        return next((one for one in tables(path) if (one.command, one.name) == (self.name, name)), None)


def tables(path: Path) -> Iterator[Table]:
    """All tables of commands in a file; raises `ConfigurationError` when it cannot be read, or is no TOML."""
    from cardferry.policy.configuration_file import ConfigurationError, line_of, parse, read_text  # noqa: PLC0415

    text = read_text(path)
    document = parse(text, str(path))
    for command in (*NAMED, *ALONE):
        if command not in document:
            continue
        under = document[command]
        for name, values in ({"": under} if command in ALONE else under).items() if isinstance(under, dict) else ():
            table = Table(command, name, values, text, str(path))
            if not isinstance(values, dict):
                line = line_of(text, (command, name))
                raise ConfigurationError(f"{path}, line {line}: {name} is no table", f"write it as [{command}.HOST]")
            yield table


def words(command: click.Command, table: Table) -> list[str]:
    """The command line that does what a table says: its options, and then what it is called with."""
    found: list[str] = []
    known = keys(command)
    hosts = [table.name] if table.name else []
    for key, value in table.values.items():
        each = value if isinstance(value, list) else [value]
        if key == _HOSTS:
            hosts = [str(one) for one in each]
        elif isinstance(value, bool):
            found += [f"--{key}"] if value else known[key].secondary_opts[:1]
        elif getattr(known[key], "count", False):
            found += [f"--{key}"] * value
        else:
            found += [word for one in each for word in (f"--{key}", f"{one:g}" if isinstance(one, float) else str(one))]
    return [*hosts, *found]


def keys(command: click.Command) -> dict[str, click.Parameter]:
    """What a table of a command can say: each key and its option."""
    found: dict[str, click.Parameter] = {}
    for one in command.params:
        hidden = isinstance(one, click.Option) and (one.hidden or one.is_eager)
        long = [word[2:] for word in one.opts if word.startswith("--")] or [one.name or ""]
        if not hidden and long[0] not in _NOT_IN_FILES:
            found[long[0]] = one
    return found


def checked(command: click.Command, ctx: click.Context, table: Table) -> dict[str, Any]:
    """The values of a table as the command gets them, by the names of its parameters.

    Raises:
        ConfigurationError: a key is none of its options, or a value is not what the option takes.
    """
    from cardferry.policy.configuration_file import ConfigurationError, unknown_key  # noqa: PLC0415

    known, values = keys(command), {}
    for key, value in table.values.items():
        where = f"{table.file}, line {table.line(key)}"
        if key not in known:
            raise unknown_key(key, list(known), where, str(table))
        parameter = known[key]
        try:
            raw = _raw(parameter, value)
            converted = parameter.process_value(ctx, raw)
        except click.BadParameter as error:
            said = " ".join(error.message.split()).rstrip(".")
            raise ConfigurationError(f"{where}: {key}: {said}", f"see `cardferry {command.name} --help`") from None
        except UserError as error:
            raise ConfigurationError(f"{where}: {key}: {error.message}", error.hint) from None
        values[parameter.name or ""] = converted if key == _HOSTS else raw
    return values


def only_tried() -> bool:
    """Whether this is `cardferry config check`: a command ends where it knows that all it was given is right.

    Each command with a table asks, once it has looked at its options and before it does anything.
    """
    context = click.get_current_context(silent=True)
    return context is not None and _TRIED in context.meta


def tried(command: click.Command, table: Table) -> None:
    """See whether the command takes what its table says, as a whole, with the command's own function.

    Raises:
        ConfigurationError: it does not.
    """
    from cardferry.policy.configuration_file import ConfigurationError  # noqa: PLC0415

    with click.Context(command, info_name=command.name) as ctx:
        values = checked(command, ctx, table)
        hosts = values.pop(_HOSTS, ())
        ctx.default_map, ctx.meta[_TRIED] = values, True
        try:
            click.Command.parse_args(command, ctx, [table.name] if table.name else [])
            ctx.params.update({_HOSTS: hosts} if hosts else {})
            ctx.params.update({"config": Path(table.file)} if "config" in ctx.params else {})
            command.invoke(ctx)
        except (click.UsageError, UserError) as error:
            said = " ".join(error.message.split()).rstrip(".")
            where = f"{table.file}, line {table.line(table.about(said))}: {table}: {said}"
            hint = error.hint if isinstance(error, UserError) else f"see `cardferry {command.name} --help`"
            raise ConfigurationError(where, hint) from None


def _raw(parameter: click.Parameter, value: Any) -> Any:
    """A value as it would be typed; raises `click.BadParameter` for one that could not be."""
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    many = parameter.multiple or parameter.nargs != 1
    if flag != isinstance(value, bool):
        raise click.BadParameter("it is true or false" if flag else f"{str(value).lower()} is no value for it")
    if flag:
        return value
    each = value if isinstance(value, list) and many else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in each):
        raise click.BadParameter("it is text or a number" + (", or several in [ ]" if many else ""))
    if isinstance(parameter.type, click.Path):
        each = [str(Path(str(one)).expanduser()) for one in each]
    count = isinstance(parameter, click.Option) and parameter.count
    texts = [one if count else f"{one:g}" if isinstance(one, float) else str(one) for one in each]
    return texts if many else texts[0]
