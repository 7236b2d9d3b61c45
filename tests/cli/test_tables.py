"""What readers and computers call themselves is shown as it is, in the width that there is, and does nothing else."""

from __future__ import annotations

import pytest

from cardferry.cli import tables


@pytest.mark.parametrize("name", ["Yubikey [otp+fido+ccid] 00 00", "A [/red] B", "[bold]", "[@click=x]y[/]"])
def test_brackets_are_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("reader",), [(name,)])
    assert name in capsys.readouterr().out


def test_control_characters_are_written_out_and_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("reader", "clients"), [("a\x1b[31mb\x9bc\rd\ne", ["one", "two"])])
    out = capsys.readouterr().out
    assert "a\\x1b[31mb\\x9bc\\rd\\ne" in out
    assert "\x1b" not in out
    assert [line.split()[-1] for line in out.splitlines()][-2:] == ["one", "two"]


def test_what_fits_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("reader", "card"), [("Reader 00 00", "none"), ("B", ["PIV", "3b00"]), ("C", "")])
    assert capsys.readouterr().out == (
        "reader        card\nReader 00 00  none\nB             PIV\n              3b00\nC\n"
    )


def test_what_does_not_fit_is_a_paragraph_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    atr = "3b" * 33
    tables.show(("reader", "card", "waiting"), [("Reader 00 00", ["PIV", atr], []), ("B", "none", ["x" * 190, "you"])])
    assert capsys.readouterr().out == (
        f"Reader 00 00\n  card     PIV\n           {atr}\nB\n  card     none\n  waiting  {'x' * 190}\n           you\n"
    )


def test_lines_of_readers_fit_80_columns_and_nothing_is_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("Yubico YubiKey OTP+FIDO+CCID 00 00", ["PIV (YubiKey 5)", "3b" * 33], "attach user@laptop")
    tables.show(("reader", "card", "through"), [row] * 3)
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()


def test_nothing_has_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("reader", "card"), [])
    assert capsys.readouterr().out == ""
