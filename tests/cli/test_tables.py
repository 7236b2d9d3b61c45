"""What readers and computers call themselves is shown as it is, and does nothing to the terminal."""

from __future__ import annotations

import pytest

from cardferry.cli import tables


@pytest.mark.parametrize("name", ["Yubikey [otp+fido+ccid] 00 00", "A [/red] B", "[bold]", "[@click=x]y[/]"])
def test_brackets_are_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.show("", ("reader",), [(name,)])
    assert name in capsys.readouterr().out


def test_control_characters_are_written_out_and_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show("", ("reader", "clients"), [("a\x1b[31mb\x9bc\rd\ne", ["one", "two"])])
    out = capsys.readouterr().out
    assert "a\\x1b[31mb\\x9bc\\rd\\ne" in out
    assert "\x1b" not in out
    assert [line.split()[-1] for line in out.splitlines() if line.strip()][-2:] == ["one", "two"]
