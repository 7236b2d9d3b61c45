"""``cardferry policy``, ``guests``, ``ticket`` and ``audit``, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cardferry.cli.main import cli
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.policy.audit import AuditLog, Entry

RULES = """
[[allow]]
who = "ssh:build*"
may = ["read", "sign:9C"]
limit = "60/hour"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account of its own, with rules."""
    for variable, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        (tmp_path / folder / "cardferry").mkdir(parents=True, mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "config/cardferry/config.toml").write_text(RULES)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_check_says_that_it_is_right_and_what_may_not_be_meant(home: Path) -> None:
    result = call("policy", "check")
    assert result.exit_code == 0
    assert "1 rule in" in result.output
    assert "the guest cannot give its PIN" in result.output


def test_check_says_what_is_wrong(home: Path) -> None:
    (home / "other.toml").write_text("audti = 1")
    result = call("policy", "check", "--config", str(home / "other.toml"))
    assert isinstance(result.exception, UserError)
    assert "line 1: there is no key 'audti'" in result.exception.message


def test_check_refuses_a_file_that_others_may_write(home: Path) -> None:
    (home / "config/cardferry/config.toml").chmod(0o666)
    result = call("policy", "check")
    assert isinstance(result.exception, UserError)
    assert "others may write it" in result.exception.message


@pytest.mark.parametrize(
    ("who", "may", "code", "said"),
    [
        ("ssh:build1", "sign:9C", 0, "allow: rule 1 allows it\nup to 60/hour\n"),
        ("ssh:build1", "sign:9A", 1, "deny: rule 1 is about ssh:build1, but does not allow it\n"),
        ("ssh:other", "read", 1, "deny: no rule is about ssh:other\n"),
        ("other", "read", 2, "is no principal"),
        ("ssh:a", "raed", 2, "no operation 'raed'"),
    ],
)
def test_explain(home: Path, who: str, may: str, code: int, said: str) -> None:
    result = call("policy", "explain", "--who", who, "--may", may)
    assert result.exit_code == code
    assert said in " ".join(result.output.split("│")) or said in result.output


def test_show(home: Path) -> None:
    result = call("policy", "show")
    assert result.exit_code == 0
    for word in ("ssh:build*", "sign:9C", "60/hour", "guests leave 1 PIN tries"):
        assert word in result.output


def test_guests_wait_and_are_forgiven(home: Path) -> None:
    from cardferry.app.runtime.configuration import wrong_pins

    assert "nobody waits" in call("guests").output
    for _ in range(2):
        wrong_pins().count(Principal(PrincipalKind.SSH, "build1"))
    assert "ssh:build1 has given wrong PINs" in call("guests").output
    assert call("guests", "forgive", "build1").output == "ssh:build1 may try again\n"
    assert isinstance(call("guests", "forgive", "build1").exception, UserError)


def test_audit_is_shown_and_verified(home: Path) -> None:
    path = home / "state/cardferry/audit.jsonl"
    AuditLog(path).add(Entry(1.0, "denied", "ssh:build1", "evil\x1b[2J", reader="R", what="decrypted with PIV 9D"))
    assert (
        "ssh:build1, denied, decrypted with PIV 9D in R [evil\\x1b[2J, as the guest says]"
        in call("audit", "show").output
    )
    assert json.loads(call("audit", "show", "--last", "1", "--json").output)["event"] == "denied"
    assert "2 lines in 1 files, none of them changed" in call("audit", "verify").output
    path.write_text(path.read_text().replace("9D", "9C"))
    result = call("audit", "verify")
    assert isinstance(result.exception, UserError)
    assert "line 2: it was changed" in result.exception.message


def test_audit_for_programs_is_one_object_a_line(home: Path) -> None:
    path = home / "state/cardferry/audit.jsonl"
    AuditLog(path).add(
        Entry(1.0, "done", "ssh:build1", what="signed"), Entry(2.0, "denied", "ssh:build2", what="signed")
    )
    shown = [json.loads(line) for line in call("audit", "show", "--json").output.splitlines()]
    assert [entry["event"] for entry in shown] == ["begins", "done", "denied"]
    assert json.loads(call("audit", "verify", "--json").output)["lines"] == 3


def test_without_an_audit_it_is_said(home: Path) -> None:
    result = call("audit", "verify")
    assert isinstance(result.exception, UserError)
    assert "there is no audit" in result.exception.message


def test_a_ticket_is_made_shown_and_revoked(home: Path) -> None:
    words = ("ticket", "ssh:build1", "--may", "sign:9C", "--uses", "20", "--for", "8h")
    error = call(*words).exception
    assert isinstance(error, UserError)
    assert error.message.startswith('no rule about ssh:build1 says pin = "ticket"')
    (home / "config/cardferry/config.toml").write_text(RULES + 'pin = "ticket"\n')
    made = call(*words)
    digits, _, said = made.output.partition("\n")
    assert digits.isdigit()
    assert len(digits) == 8
    assert ": ssh:build1 may sign:9C, 20 times, until 20" in said
    listed = call("ticket", "list").output
    assert listed == said
    name = listed.split()[1].rstrip(":")
    assert call("ticket", "revoke", name).output == f"ticket {name} of ssh:build1 is good for nothing any more\n"
    assert call("ticket", "list").output == "there are no tickets\n"
    error = call("ticket", "revoke", name).exception
    assert isinstance(error, UserError)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build1", "--may", "sign:9C"), "is no principal"),
        (("ssh:build1", "--may", "sing:9C"), "there is no operation"),
        (("ssh:build1", "--may", "sign:9C", "--for", "32d"), "is no time"),
        (("ssh:build1", "--may", "sign:9C", "--for", "8"), "is no time"),
        (("ssh:build1", "--may", "sign:9C", "--uses", "0"), "range"),
        (("ssh:build1",), "--may"),
    ],
)
def test_a_ticket_that_cannot_be(home: Path, words: tuple[str, ...], said: str) -> None:
    result = call("ticket", *words)
    assert result.exit_code == 2
    assert said in result.output
