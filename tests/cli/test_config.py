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
    # what the command itself refuses
    ("[host]\ngrace = 1\nlisten = 'tls::77640'", "line 3: [host]: nowhere to listen: 'tls::77640'", "tls::PORT"),
    ("[host]\nlisten = ['tcp::7764']", "line 2: [host]: nowhere to listen: 'tcp::7764'", "tls::PORT"),
    ("[host]\ngrace = 1\nweb = '0.0.0.0:7765'", "line 3: [host]: --web 0.0.0.0:7765: other", "--web-viewer tls:NAME"),
    ("[host]\nweb-viewer = 'tls:anna'", "line 2: [host]: --web-viewer tls:anna: there is no page", "--web ADDRESS"),
    ("[host]\nmetrics = '0.0.0.0:7766'", "line 2: [host]: --metrics 0.0.0.0:7766: nothing", "--metrics 127.0.0.1"),
    ("[host]\nmetrics = 7766", "line 2: [host]: --metrics 7766: that is no ADDRESS:PORT", "--metrics 127.0.0.1"),
    ("[host]\n\ndirect-ports = '7779-7770'", "line 3: [host]: not a port, nor several", "7770-7779"),
    ("[host]\nmode = '9'", "line 2: [host]: '9' is not a mode", "cardferry host --help"),
    ("[host]\nreaders = 'gopher://x'", "line 2: [host]: not a HOST", "HOST is one of"),
    ("[host]\ngroup = 'no-such'", "line 2: [host]: there is no group 'no-such'", "getent group"),
    ("[host]\nfleet-label = 'pool'", "line 2: [host]: not a label: 'pool'", "pool=signing"),
    ("[host]\ntls-ca = '/ca.pem'", "line 2: [host]: --tls-ca, --tls-cert", "cardferry host --help"),
    ("[attach.laptop]\ngroup = 'no-such'", "line 2: [attach.laptop]: there is no group", "getent group"),
    ("[attach.laptop]\ntls-ca = '/c'", "line 2: [attach.laptop]: --tls-ca, --tls-cert", "cardferry attach --help"),
    ("[attach.'virtual:']\ndirect = true", "line 2: [attach.'virtual:']: --direct is for hosts", "leave it out"),
    ("[attach.a]\nnative = true\nqemu = '/q'", "line 2: [attach.a]: --native and --qemu are", "a second attach"),
    ("[attach.'pcscd:/run/pcscd/pcscd.comm']\nnative = true", "line 1: [attach.'pcscd:", "HOST --native"),
    ("[attach.'a b']\nwait = true", "line 1: [attach.'a b']: not a HOST: 'a b'", "no blanks"),
    ("[share.'tls://lab1']\nwait = true", "line 1: [share.'tls://lab1']: share needs another computer", "[user@]name"),
    ("[[allow]]\nwho = 'ssh:a'\nmay = ['read', 'sign:9Z']", "line 3: 'sign:9Z' names no key", "correct may"),
    ("[fleet]\n\nservers = []", "line 3: servers: there is none in it", "docs/fleet.md"),
    # pools
    ("[pool.a]\nserial = '1'\nmembers = []", "line 3: members is empty", "name at least one HOST"),
    ("\n[pool.a]", "line 2: [pool.a] has no members", 'members = ["HOST", "HOST"]'),
    ("[pool.a]\nlabel = 'b=c'", "line 1: [pool.a] means hosts of a fleet with the label b=c", "servers = "),
    # quotes
    (
        "[pool.a]\nmembers = ['x']\nserial = 2247257399",
        "line 3: serial: it is text, or several in [ ]",
        'put it in quotes: serial = "2247257399"',
    ),
    ("[pool.a]\n\nserial = [1, 2]", "line 3: serial: it is text", 'put each in quotes: serial = ["1"]'),
    ("[pool.a]\n\nlabel = 2026-11-27", "line 3: label: it is text", 'label = "2026-11-27"'),
    ("[pool.a]\nserial = '1'\nmembers = 'x'", "line 3: members: it is several", 'in brackets: members = ["x"]'),
    ("[fleet]\nname = 7", "line 2: name: it is text", 'put it in quotes: name = "7"'),
    ("[fleet]\nservers = [1]", "line 2: servers: it is text, or", 'put each in quotes: servers = ["1"]'),
    ("[[allow]]\nmay = 'read'\nwho = 7", "line 3: who: it is text, or several", 'put it in quotes: who = "7"'),
    ("audit-file = 7", "line 1: audit-file: ", 'put it in quotes: audit-file = "7"'),
    ("ask-with = 'terminal'", "line 1: ask-with: it is several in [ ]", 'ask-with = ["terminal"]'),
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


def test_a_pool_whose_servers_attach_has_is_right(file: Path) -> None:
    file.write_text('[pool.a]\nlabel = "b=c"\n[attach."pool:a"]\nfleet = "nats://n1"\n')
    assert "is right: [attach.'pool:a'], [pool.a]; " in call("config", "check").output


def test_check_starts_nothing_and_makes_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    file.write_text("[host]\nlisten='tls::0764'\nweb='0.0.0.0:7765'\nweb-viewer='tls:anna'\nmetrics='[::1]:7766'\n")
    result = call("config", "check")
    assert result.exit_code == 0, result.exception
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_file_that_is_not_here_is_named(file: Path) -> None:
    file.write_text(
        "[fleet]\nservers = 'n1'\ncredentials = '~/lab.creds'\nca = '/no/ca.pem'\n"
        "[host]\ntls-ca = '/no/1'\ntls-cert = '/no/2'\ntls-key = '/dev/null'\n"
        "[[allow]]\nwho = 'ssh:a'\nmay = 'sign'\npin = 'host'\npin-from = 'file:/no/pin'\n"
    )
    result = call("config", "check")
    assert "is right: [host], [fleet]; 1 rule" in result.output
    assert [line for line in result.output.splitlines() if line.startswith("note: ")] == [
        f"note: {where}: there is no file {path} on this computer"
        for where, path in (
            ("[fleet] credentials", file.parents[1] / "lab.creds"),
            ("[fleet] ca", "/no/ca.pem"),
            ("[host] tls-ca", "/no/1"),
            ("[host] tls-cert", "/no/2"),
            ("rule 1 pin-from", "/no/pin"),
        )
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("audit = 'off'", "is right: no options of commands; "),
        ("[attach.a]\n[pool.b]\nmembers=['a']", "is right: [attach.a], [pool.b]; "),
    ],
)
def test_check_names_no_table_that_is_not_there(text: str, says: str, file: Path) -> None:
    file.write_text(text)
    output = call("config", "check").output
    assert says in output
    assert "[host]" not in output


def test_the_empty_device_is_an_empty_configuration(file: Path) -> None:
    assert call("config", "check", "--config", "/dev/null").output.startswith("/dev/null is right: no options")


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
        '[fleet]\nservers = "n1"\n[pool.signing]\nmembers = ["laptop", "tls://lab1"]\nsubject = "CN=a*"\n'
        '[pool.all]\nlabel = "a=b"\n'
    )
    assert "is right: [pool.signing], [pool.all], [fleet]; no rules" in call("config", "check").output
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
