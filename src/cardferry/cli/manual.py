"""Man pages, completions and a unit as files, made from the commands: ``python -m cardferry.cli.manual FOLDER``.

``make pages`` writes them to ``contrib/``, from where sdist, wheel and Debian package take them; a test compares.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cardferry.app.commands.service_unit import packaged
from cardferry.cli.completion import SHELLS, script
from cardferry.cli.main import COMMANDS, cli

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
_EXIT: Final = """\
.SH EXIT STATUS
0 when all went well, also after Ctrl\\-C, SIGTERM or SIGHUP; 2 for wrong usage. Each other error has a code of
its own, and says in two lines, error: and hint:, what is wrong and what to do.
"""


def pages() -> dict[str, str]:
    """Each file of man pages, completions and units: its path, and what is in it."""
    names = ["cardferry", *(f"cardferry-{name}" for name in COMMANDS)]
    found = {"man/cardferry.1": _page("cardferry", "carry a smart card reader to every computer", cli, names)}
    for name, says in COMMANDS.items():
        command = importlib.import_module(f"cardferry.cli.{name}").command
        found[f"man/cardferry-{name}.1"] = _page(f"cardferry-{name}", says, command, names)
    found["systemd/cardferry.service"] = packaged()
    found |= {f"completions/{_COMPLETIONS[shell]}": script(shell, cli) for shell in SHELLS}
    return found


def _page(name: str, says: str, command: click.Command, names: list[str]) -> str:
    root = click.Context(cli, info_name="cardferry", **cli.context_settings)
    context = root if command is cli else click.Context(command, info_name=command.name, parent=root)
    main = command is cli
    usage = " ".join(command.collect_usage_pieces(context))
    others = ", ".join(f"\\fB{_roff(one)}\\fR(1)" for one in names if one != name) if main else "\\fBcardferry\\fR(1)"
    return "".join(
        [
            f'.TH "{_roff(name.upper())}" 1 "" cardferry "User Commands"\n',
            f".SH NAME\n{_roff(name)} \\- {_roff(says)}\n",
            f".SH SYNOPSIS\n.B {_roff(context.command_path)}\n{_roff(usage)}\n",
            f".SH DESCRIPTION\n{_paragraphs(command.help or '')}",
            ".SH COMMANDS\n" + "".join(map(_item, COMMANDS, COMMANDS.values())) if main else "",
            ".SH OPTIONS\n" + "".join(_item(*one) for one in _options(command, context)),
            "" if main else "".join(_part(inner, context) for inner in _parts(command, context)),
            _MAIN if main else "",
            _EXIT,
            f".SH SEE ALSO\n{others}, \\fBssh\\fR(1), \\fBpcscd\\fR(8)\n",
        ]
    )


def _parts(command: click.Command, context: click.Context) -> Iterator[click.Command]:
    """The commands of a group; also the one that has no word of its own, but a HOST."""
    if isinstance(command, click.Group):
        for name in ["HOST", *command.list_commands(context)]:
            if (inner := command.get_command(context, name)) is not None:
                yield inner


def _part(command: click.Command, parent: click.Context) -> str:
    """A command of a group, as a section of the group's page; what is in that is shown behind it."""
    context = click.Context(command, info_name="" if command.name == "HOST" else command.name, parent=parent)
    name, usage = context.command_path.strip(), " ".join(command.collect_usage_pieces(context))
    return "".join(
        [
            f".SH {_roff(name.upper())}\n.B {_roff(name)}\n{_roff(usage)}\n.PP\n",
            _paragraphs(command.help or ""),
            *(_item(*one) for one in _options(command, context)),
            *(_part(inner, context) for inner in _parts(command, context)),
        ]
    )


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
