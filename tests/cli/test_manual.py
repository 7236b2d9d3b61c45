"""Man pages and completions that packages carry are those of the commands, and groff reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cardferry.cli.main import COMMANDS
from cardferry.cli.manual import pages
from tests.lab.computer import REPOSITORY

CONTRIB = REPOSITORY / "contrib"


def test_the_files_are_what_the_commands_say() -> None:
    """After a change of a command or an option: make pages."""
    files = [path for folder in ("man", "completions") for path in (CONTRIB / folder).iterdir()]
    files.append(CONTRIB / "systemd" / "cardferry.service")
    assert {str(path.relative_to(CONTRIB)): path.read_text() for path in files} == pages()


def test_each_command_has_a_page_that_man_shows_without_a_warning(tmp_path: Path) -> None:
    assert {f"man/cardferry-{name}.1" for name in COMMANDS} <= pages().keys()
    if shutil.which("groff") is None:
        pytest.skip("not run, missing: groff")
    for path in sorted((CONTRIB / "man").iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", path], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        if path.name == "cardferry-attach.1":
            assert "-e, --ssh COMMAND" in done.stdout
            assert "'exec:docker exec -i box cardferry host --stdio'" in " ".join(done.stdout.split())


def test_each_command_of_a_group_has_a_page_and_what_has_no_word_a_section() -> None:
    made = pages()
    group = made["man/cardferry-setup.1"]
    assert "\\fBcardferry\\-setup\\-system\\fR(1)" in group
    assert ".B cardferry setup\n[OPTIONS] HOST\n" in group
    assert ".B cardferry setup system\n[OPTIONS] [HOST...]\n" in made["man/cardferry-setup-system.1"]
    assert "\\fB\\-\\-linger\\fR\n" in made["man/cardferry-setup-service-attach.1"]
    assert "All options of `cardferry attach`" in made["man/cardferry-setup-service-attach.1"]
    assert "\\fB\\-\\-anchor FILE\\fR\n" in "".join(text for path, text in made.items() if "audit-" in path)
    assert ".B cardferry ticket\n[OPTIONS] PRINCIPAL\n" in made["man/cardferry-ticket.1"]
    assert "man/cardferry-ticket-make.1" not in made
