"""Man pages, completions and a unit as files, made from the commands: ``python -m cardferry.cli.manual FOLDER``.

``make pages`` writes them to ``contrib/``, from where sdist, wheel and Debian package take them; a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from cardferry.app.commands.service_unit import packaged
from cardferry.cli.completion import SHELLS, script
from cardferry.cli.main import cli

#: Shell -> what its file is called where completions are looked for.
_COMPLETIONS: Final = {"bash": "cardferry", "zsh": "_cardferry", "fish": "cardferry.fish"}
_MAIN: Final = """\
.SH HOST
A name or user@name, as \\fBssh\\fR(1) and \\fI~/.ssh/config\\fR know it, or one of
ssh://, unix:, vsock://, exec:, tls://, pcscd:, vpicc:, virtual:, which \\fBcardferry\\-attach\\fR(1) explains.
.SH ENVIRONMENT
.TP
.B PCSCLITE_CSOCK_NAME
what leads programs to the readers; \\fBcardferry\\-env\\fR(1) prints the line that sets it.
.TP
.B XDG_RUNTIME_DIR
where our sockets are, in \\fIcardferry\\fR.
.TP
.B NO_COLOR
no colours.
"""
#: Names of commands that nobody types: of `setup HOST`, and of `ticket PRINCIPAL`.
_WORDLESS: Final = ("HOST", "make")
_EXIT: Final = """\
.SH EXIT STATUS
0 when all went well, also after Ctrl\\-C, SIGTERM or SIGHUP; 2 for wrong usage. Each other error has a code of
its own, and says in two lines, error: and hint:, what is wrong and what to do.
"""


def pages() -> dict[str, str]:
    """Each file of man pages, completions and units: its path, and what is in it."""
    root = click.Context(cli, info_name="cardferry", **cli.context_settings)
    found = dict(_pages("cardferry", "carry a smart card reader to every computer", root))
    found["systemd/cardferry.service"] = packaged()
    found |= {f"completions/{_COMPLETIONS[shell]}": script(shell, cli) for shell in SHELLS}
    return found


def _pages(name: str, says: str, context: click.Context) -> Iterator[tuple[str, str]]:
    """The page of a command and, of a group, those of all that are in it."""
    inner = list(_inner(context))
    yield f"man/{name}.1", _page(name, says, context, inner)
    for word, line, command in inner:
        its = click.Context(command, info_name=word, parent=context, **command.context_settings)
        yield from _pages(f"{name}-{word}", line, its)


def _inner(context: click.Context) -> Iterator[tuple[str, str, click.Command]]:
    """The commands of a group: word, line and command."""
    group = context.command
    if isinstance(group, click.Group):
        lines: Mapping[str, str] = getattr(group, "COMMANDS", {})
        for word in group.list_commands(context):
            if (command := group.get_command(context, word)) is not None and not command.hidden:
                yield word, lines.get(word) or _line(command), command


def _line(command: click.Command) -> str:
    said = command.get_short_help_str(limit=100).rstrip(".")
    return said[:1].lower() + said[1:]


def _page(name: str, says: str, context: click.Context, inner: list[tuple[str, str, click.Command]]) -> str:
    command, main = context.command, context.parent is None
    above = [] if main else [name.rpartition("-")[0]]
    others = ", ".join(f"\\fB{_roff(one)}\\fR(1)" for one in [*above, *(f"{name}-{word}" for word, *_ in inner)])
    return "".join(
        [
            f'.TH "{_roff(name.upper())}" 1 "" cardferry "User Commands"\n',
            f".SH NAME\n{_roff(name)} \\- {_roff(says)}\n",
            f".SH SYNOPSIS\n{_usage(context)}",
            f".SH DESCRIPTION\n{_paragraphs(command.help or '')}",
            f".PP\n{_paragraphs(command.epilog)}" if command.epilog else "",
            ".SH COMMANDS\n" + "".join(_item(word, line) for word, line, _ in inner) if inner else "",
            ".SH OPTIONS\n" + "".join(_item(*one) for one in _options(command, context)),
            _without_word(context),
            _MAIN if main else "",
            _EXIT,
            f".SH SEE ALSO\n{others}, \\fBssh\\fR(1), \\fBpcscd\\fR(8)\n",
        ]
    )


def _usage(context: click.Context) -> str:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f".B {_roff(context.command_path.strip())}\n{_roff(pieces)}\n"


def _without_word(parent: click.Context) -> str:
    """The command that a group runs without a word for it, as with a HOST: a section of the group's page."""
    group = parent.command
    found = [group.get_command(parent, word) for word in _WORDLESS] if isinstance(group, click.Group) else []
    return "".join(_section(command, parent) for command in found if command is not None)


def _section(command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name="", parent=parent)
    title = f"{context.command_path}{command.params[0].make_metavar(context)}".upper()
    items = "".join(_item(*one) for one in _options(command, context))
    return f".SH {_roff(title)}\n{_usage(context)}.PP\n{_paragraphs(command.help or '')}{items}"


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            yield record


def _item(name: str, says: str) -> str:
    return f".TP\n\\fB{_roff(name)}\\fR\n{_roff(says)}\n"


def _paragraphs(text: str) -> str:
    """A docstring; as click does, paragraphs are filled anew."""
    parts = re.split(r"\n\s*\n", text.strip())
    return "\n.PP\n".join(_roff(" ".join(part.split())) for part in parts) + "\n"


def _roff(text: str) -> str:
    """The text with nothing in it that roff takes for something else."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    for path, content in pages().items():
        file = Path(sys.argv[1]) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
