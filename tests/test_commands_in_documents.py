"""The command lines of the documents: each option is one, and what a shell is given, a shell understands."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest

from cardferry.cli.main import COMMANDS
from tests.hints import hints
from tests.lab.process import run
from tests.other_user import SOMEBODY
from tests.test_documents import PAGES, ROOT, name

#: A block of lines for a shell: fenced, or indented as in Markdown.
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
#: Up to where a command goes in a line for a shell.
_ENDS = re.compile(r"[|;&)`#]|\\?$| > ")
#: A command that is an address has options of its own.
_FOREIGN = re.compile(r"'exec:[^']*'")
_CALL = re.compile(rf"\bcardferry ({'|'.join(COMMANDS)})\b(.*)")


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of ours in a text, and the options that it is given there."""
    for line in _FOREIGN.sub("", text.replace("\\\n", " ")).splitlines():
        for found in _CALL.finditer(line):
            rest = found[2][: end.start()] if (end := _ENDS.search(found[2])) else found[2]
            ours = rest.split(" -- ")[0] if found[1] == "run" else rest
            words = re.findall(r"(?<![\w-])--?[a-z][\w-]*", ours)
            yield found[1], words


def with_its_own(command: click.Command) -> Iterator[click.Command]:
    """A command and, of a group, all that are in it; a service's also the one that it runs."""
    yield command
    if (runs := getattr(command, "runs", None)) is not None:
        yield runs
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in [*command.list_commands(context), "HOST"]:  # what has no word of its own
            if (found := command.get_command(context, each)) is not None:
                yield from with_its_own(found)


def unknown(text: str) -> list[str]:
    """The options in a text that are none."""
    wrong = []
    for command, words in calls(text):
        known = importlib.import_module(f"cardferry.cli.{command}").command
        parameters = [parameter for one in with_its_own(known) for parameter in one.params]
        options = {one for parameter in parameters for one in (*parameter.opts, *parameter.secondary_opts)}
        wrong += [f"{command} {word}" for word in words if word not in options | {"--help"}]
    return wrong


def code(page: Path) -> Iterator[str]:
    text = page.read_text()
    yield from (block for _, block in _FENCED.findall(text))
    yield from _INDENTED.findall(_FENCED.sub("", text))
    yield from _INLINE.findall(_FENCED.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_option_that_a_page_names_is_one(page: Path) -> None:
    assert [wrong for text in code(page) for wrong in unknown(text)] == []


def test_each_option_that_a_hint_or_a_unit_names_is_one() -> None:
    texts = [*hints(), (ROOT / "contrib" / "systemd" / "cardferry.service").read_text()]
    assert [wrong for text in texts for wrong in unknown(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_for_a_shell_is_understood_by_one(page: Path) -> None:
    text = page.read_text()
    for kind, block in _FENCED.findall(text):
        if kind == "sh":
            subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True)


def test_a_call_with_a_wrong_option_would_be_seen() -> None:
    text = "run `cardferry attach --nosuch x`, or cardferry run --from y -- ssh -I z; cardferry env --import"
    assert unknown(text) == ["attach --nosuch"]


def test_every_command_is_a_command() -> None:
    for command in COMMANDS:
        assert isinstance(importlib.import_module(f"cardferry.cli.{command}").command, click.Command)


@pytest.mark.real
def test_the_namespace_of_a_user_who_is_not_root() -> None:
    """``docs/machines/chroot.md``, with what it says for another user than root."""
    page = (ROOT / "docs" / "machines" / "chroot.md").read_text()
    options = re.search(r"as another user with `([^`]+)` behind `unshare`", page)
    block = next(block for kind, block in _FENCED.findall(page) if block.startswith("unshare"))
    assert options is not None
    script = block.replace("unshare ", f"unshare {options[1]} ").replace("pcsc_scan -c", "test -w /run/cards")
    become = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"] if os.getuid() == 0 else []
    with TemporaryDirectory() as home:
        cards = Path(home) / "cards"
        cards.mkdir(0o700)
        for folder in (home, cards):
            if become:
                os.chown(folder, SOMEBODY, SOMEBODY)
        done = run([*become, "bash", "-euc", script], {**os.environ, "HOME": home})
    assert (done.code, done.err) == (0, ""), done
