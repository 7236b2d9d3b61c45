"""Options of commands from the configuration file, and ``cardferry config``, as a person types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cardferry.cli import attach, host, share
from cardferry.cli.main import cli
from cardferry.pcsc.errors import UserError

FILE = """\
keep-tries = 2

[attach.laptop]
hosts = ["virtual:", "other"]
max-idle = 5
reader = [
    "*Yubi*",  # the good one
    "B*",
]
link = false
record = "~/calls"

[attach."unix:/run/x"]
grace = 2.5
wait = true

[share.build1]
remote-socket = "/run/card"
ssh = "ssh -F other"

[host]
listen = "unix:/run/links/card"
verbose = 2
mode = "0660"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The account's own."""
    (tmp_path / "cardferry").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "cardferry" / "config.toml"
    path.write_text(FILE)
    return path


def parsed(command: click.Command, *words: str) -> dict[str, Any]:
    return command.make_context(command.name, list(words), parent=click.Context(cli, **cli.context_settings)).params


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_attach_needs_no_option_that_the_file_has(file: Path) -> None:
    found = parsed(attach.command, "laptop")
    assert [str(one) for one in found["hosts"]] == ["virtual:", "other"]
    assert (found["max_idle"], found["link"], found["reader_patterns"]) == (5, False, ("*Yubi*", "B*"))
    assert found["record"] == file.parents[1] / "calls"
    found = parsed(attach.command, "unix:/run/x")
    assert (found["grace"], found["wait"], str(found["hosts"][0])) == (2.5, True, "unix:/run/x")


def test_the_command_line_comes_first(file: Path) -> None:
    found = parsed(attach.command, "laptop", "--link", "--max-idle=7", "--reader", "C*")
    assert (found["max_idle"], found["link"], found["reader_patterns"]) == (7, True, ("C*",))


def test_share_and_host(file: Path) -> None:
    found = parsed(share.command, "build1")
    assert (found["remote_socket"], found["ssh"].program) == ("/run/card", ("ssh", "-F", "other"))
    found = parsed(host.command)
    assert (found["listen"], found["verbose"], found["mode"]) == (("unix:/run/links/card",), 2, "0660")


def test_other_hosts_have_nothing_of_it(file: Path) -> None:
    assert parsed(attach.command, "desk")["link"] is True
    assert parsed(attach.command, "laptop", "desk")["link"] is True, "the table is for laptop alone"


def test_share_looks_into_the_file_that_it_is_told(file: Path) -> None:
    other = file.with_name("other.toml")
    other.write_text("[share.build1]\ngrace = 3\n")
    assert parsed(share.command, "build1", "--config", str(other))["grace"] == 3


WRONG = [
    ("[attach.laptop]\nmax-idl = 5", "line 2: there is no key 'max-idl' in [attach.laptop]", "is 'max-idle' meant?"),
    ("[attach.laptop]\n\ngrace = -1", "line 3: grace: -1.0 is not in the range", "cardferry attach --help"),
    ("[attach.laptop]\nlink = 'no'", "line 2: link: it is true or false", "cardferry attach --help"),
    ("[attach.laptop]\ngrace = true", "line 2: grace: true is no value for it", "cardferry attach --help"),
    ("[attach.laptop]\nsocket = ['/x']", "line 2: socket: it is text or a number", "cardferry attach --help"),
    ("[attach.laptop]\nmode = '9'", "line 2: mode: '9' is not a mode in octal", "cardferry attach --help"),
    ("[attach.laptop]\nhosts = 'gopher://x'", "line 2: hosts: not a HOST: 'gopher://x'", "HOST is one of"),
    ("attach = {laptop = {wat = true}}", "line 1: there is no key 'wat'", "is 'wait' meant?"),
    ("[attach]\nlaptop = 1", "line 2: laptop is no table", "[attach.HOST]"),
    ("[host]\nstdio = true", "line 2: there is no key 'stdio' in [host]", "what there is: readers, "),
    ("[atach.laptop]", "line 1: there is no key 'atach'", "is 'attach' meant?"),
    ("[share.x]\nexclusive = 'maybe'", "line 2: exclusive: 'maybe' is not one of", "cardferry share --help"),
]


@pytest.mark.parametrize(("text", "message", "hint"), WRONG, ids=[text for text, *_ in WRONG])
def test_what_is_wrong_is_said_with_its_line(text: str, message: str, hint: str, file: Path) -> None:
    file.write_text(text)
    error = call("config", "check").exception
    assert isinstance(error, UserError)
    assert error.message.startswith(f"{file}, {message}")
    assert hint in error.hint
    assert error.exit_code == 14


def test_a_command_refuses_its_own_table_and_no_other(file: Path) -> None:
    file.write_text("[attach.laptop]\nnosuch = 1\n")
    with pytest.raises(UserError, match="nosuch"):
        parsed(attach.command, "laptop")
    parsed(attach.command, "desk")


def test_check_says_what_there_is(file: Path) -> None:
    result = call("config", "check")
    assert result.exit_code == 0, result.exception
    assert (
        f"{file} is right: [attach.laptop], [attach.'unix:/run/x'], [share.build1], [host]; no rules" in result.output
    )


def test_show_says_what_it_means(file: Path) -> None:
    result = call("config", "show")
    assert result.exit_code == 0, result.exception
    said = (
        "`cardferry attach laptop` means cardferry attach virtual: other --max-idle 5 --reader '*Yubi*' --reader 'B*'"
    )
    assert f"{said} --no-link" in result.output
    assert "means cardferry host --listen unix:/run/links/card --verbose --verbose --mode 0660" in result.output
    assert "guests leave 2 PIN tries" in result.output


def test_pools_are_checked_and_shown(file: Path) -> None:
    file.write_text(
        '[pool.signing]\nmembers = ["laptop", "tls://lab1"]\nsubject = "CN=a*"\n[pool.all]\nlabel = "a=b"\n'
    )
    assert "[pool.signing], [pool.all]; no rules" in call("config", "check").output
    shown = call("config", "show").output
    assert "[pool.signing]: `cardferry attach pool:signing` shows one reader" in shown
    for word in ("laptop", "tls://lab1", "CN=a*", "hosts of the fleet with the label a=b"):
        assert word in shown
    assert str(parsed(attach.command, "pool:signing")["hosts"][0]) == "pool:signing"
    file.write_text('[pool.signing]\nmembers = ["a b"]\n')
    error = call("config", "check").exception
    assert isinstance(error, UserError)
    assert "[pool.signing]: not a HOST: 'a b'" in error.message


def test_without_a_file_it_is_said(file: Path) -> None:
    file.unlink()
    assert call("config", "check").output.startswith(f"there is no configuration: neither {file} nor /etc/")
    assert parsed(attach.command, "laptop")["link"] is True
