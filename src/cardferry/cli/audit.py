"""``cardferry audit``: what was done with the cards of this computer, and whether the record of it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from cardferry.cli.options import json_option
from cardferry.cli.say import say, say_json

_file = click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="the audit's file, instead of "
                     "the one that the configuration names")  # fmt: skip


@click.group("audit")
def command() -> None:
    """Show what was done with this computer's cards and what was refused, and check that none of it was changed."""


def _path(file: Path | None) -> Path:
    from cardferry.app.runtime.configuration import audit_path, rulebook  # noqa: PLC0415

    return file or audit_path(rulebook())


@command.command("show")
@click.option("--last", type=click.IntRange(1), metavar="N", help="only the last N")
@_file
@json_option
def show(last: int | None, file: Path | None, as_json: bool) -> None:
    """Show who has done what, oldest first; with --json one object a line."""
    from cardferry.app.commands.audit import entries  # noqa: PLC0415

    found = list(entries(_path(file)))
    for entry in found[-last:] if last else found:
        _show(entry, as_json)


@command.command("follow")
@_file
@json_option
def follow(file: Path | None, as_json: bool) -> None:
    """Show what is done from now on; with --json one object a line. Runs until Ctrl-C."""
    from cardferry.app.commands.audit import follow as following  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415

    path = _path(file)
    lifetime.run(lambda: following(path, lambda entry: _show(entry, as_json)))


@command.command("verify")
@click.option("--anchor", type=click.Path(path_type=Path), metavar="FILE", help="FILE has what earlier runs have "
              "found; see that it is still so, and add what is found now. Keep it on another computer")  # fmt: skip
@_file
@json_option
def verify(anchor: Path | None, file: Path | None, as_json: bool) -> None:
    """See that no line was changed, left out or moved. The exit code says so, too."""
    from cardferry.app.commands.audit import verify as verified  # noqa: PLC0415

    found = verified(_path(file), anchor)
    if as_json:
        say_json({"files": found.files, "lines": found.lines, "head": found.head})
        return
    say(f"{found.lines} lines in {found.files} files, none of them changed; the last one's hash is {found.head}")


def _show(entry: dict[str, object], as_json: bool) -> None:
    import time  # noqa: PLC0415

    if as_json:
        say_json(entry, indent=None)
        return
    at = entry.get("at")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at if isinstance(at, float) else 0.0))
    words = [str(entry[key]) for key in ("principal", "event", "what", "digest", "outcome", "rule") if entry.get(key)]
    times = f" ({entry['times']} times)" if "times" in entry else ""
    program = (
        f" [{entry['program']}{'' if entry.get('proved') else ', as the guest says'}]" if "program" in entry else ""
    )
    reader = f" in {entry['reader']}" if "reader" in entry else ""
    say(f"{when} {', '.join(words)}{reader}{times}{program}")
