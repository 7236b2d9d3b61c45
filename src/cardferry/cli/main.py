"""``cardferry``: finds the command's module, and turns every error into two lines and an exit code."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn, TextIO

import click

from cardferry import __version__
from cardferry.app.runtime import logging as logs
from cardferry.cli.lazy import LazyGroup
from cardferry.cli.say import look_alike, say
from cardferry.pcsc.errors import UserError

#: Each command: its module in this package and its line in ``cardferry --help``, so that help imports nothing.
#: The module has a `click.Command` named ``command``.
COMMANDS: Final = {
    "demo": "see it work, with everything on this machine",
    "attach": "use another computer's readers here",
    "share": "lend this computer's readers to another one",
    "host": "serve guests that have cardferry, too",
    "guest": "serve programs with readers that another computer lends",
    "run": "run a command with the attached readers",
    "env": "print the line for your shell",
    "status": "show readers, cards, who holds them and who waits",
    "top": "the same live, with how long it will take",
    "readers": "list readers and their cards",
    "config": "check the configuration file, and show what it means",
    "policy": "say who may do what with this computer's cards",
    "invite": "let a computer join this one, to use its readers over TLS",
    "join": "join a host that has invited this computer",
    "guests": "show guests, remove them, and forgive wrong PINs",
    "ticket": "make digits that a program gives in the place of a PIN",
    "audit": "show what was done with this computer's cards",
    "doctor": "say what is wrong, and how to mend it",
    "setup": "make it permanent, here and on other computers",
    "card": "put a built-in PIV card into a virtual reader",
    "completion": "make your shell complete all this",
    "help": "explain a command",
}
_COMPLETE: Final = "_CARDFERRY_COMPLETE"
_INTERRUPTED: Final = 130
_WRONG_USAGE: Final = 2
#: What click knows that is like what was typed.
_UNKNOWN: Final = (click.NoSuchOption, click.exceptions.NoSuchCommand)
#: What this computer can run out of wherever something is written or opened, and what helps.
_SHORTAGES: Final = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room: the account may not use more of that disk",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "end programs that have many files open",
    errno.ENOMEM: "end programs that need much memory",
}


class _Cardferry(LazyGroup):
    """The group of all commands."""

    PACKAGE = "cardferry.cli"
    COMMANDS = COMMANDS


@click.group(cls=_Cardferry, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="cardferry", message="%(prog)s %(version)s")
def cli() -> None:
    """One smart card reader, usable from every computer you work on.

    Programs need not know that it is far away.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: run the command line and exit.

    Args:
        arguments: instead of the process's own.
    """
    _open_standard_streams()
    logs.guard_standard_error()
    if _COMPLETE in os.environ:
        import cardferry.cli.completion  # noqa: F401, PLC0415 - bash's way to ask is there
    try:
        code = cli.main(args=arguments, prog_name="cardferry", standalone_mode=False)
    except UserError as error:
        _fail(error.message, error.hint, error.exit_code)
    except click.exceptions.NoArgsIsHelpError:
        _fail("no command", "see `cardferry --help`", _WRONG_USAGE)
    except click.ClickException as error:
        hint = f"see `{_path(error)} --help`"
        if isinstance(error, _UNKNOWN) and error.possibilities:
            hint = f"did you mean {' or '.join(error.possibilities)}? {hint}"
        says = error.message if isinstance(error, _UNKNOWN) else error.format_message()
        _fail(_sentence(says), hint, error.exit_code)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Who read our output has gone: nothing is left to be said, also not by the interpreter's own flush.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        if error.errno not in _SHORTAGES:
            raise
        sys.stdout = None  # perhaps it is what cannot be written
        what = f"{error.filename}: " if error.filename else ""
        _fail(f"{what}{error.strerror}", _SHORTAGES[error.errno], 1)
    sys.exit(code if isinstance(code, int) else 0)


def _open_standard_streams() -> None:
    """Who starts us with closed ones gets no sockets in their places: what we print would go there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if descriptor and not os.get_blocking(descriptor):
            os.set_blocking(descriptor, True)  # an ssh at the same terminal or pipe has made it so for all
    sys.stdout, sys.stderr = _whole(sys.stdout), _whole(sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("look-alike", look_alike)
        sys.stdout.reconfigure(errors="look-alike")  # no word ends a command, whatever the encoding lacks


def _whole(stream: TextIO) -> TextIO:
    """The same standard stream, which writes all it is told.

    With ``PYTHONUNBUFFERED`` Python drops the rest of what the kernel takes in part only, as terminals do.
    """
    if not (isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.RawIOBase)):
        return stream
    return open(stream.fileno(), "w", 1, stream.encoding, stream.errors, closefd=False)


def _fail(message: str, hint: str, code: int) -> NoReturn:
    before = logs.priority(logging.ERROR)
    say(f"error: {message}", before=before, err=True)
    say(f"hint: {hint}", before=before, err=True)
    sys.exit(code)


def _sentence(text: str) -> str:
    """In the manner of our own: on one line, without the full stop."""
    return " ".join(text.split()).rstrip(".")


def _path(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if isinstance(context, click.Context) else "cardferry"
