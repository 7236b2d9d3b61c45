"""systemd-ask-password: what its end means. `tests/real/test_pins.py` has the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.policy.pin import ask_password
from cardferry.policy.pin.ask_password import AskPassword
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said

PIN = Question("ssh:build1 wants the PIN", "PIN", patience=7)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 123456", Said(yes=True, pin=bytearray(b"123456"))),
        ("echo", CANCELLED),
        ("echo Failed to query password: Operation canceled >&2; exit 1", CANCELLED),
        ("echo Failed to query password: Timer expired >&2; exit 1", NO_ANSWER),
        ("echo Failed to query password: Permission denied >&2; exit 1", None),
    ],
)
async def test_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: Said | None) -> None:
    program = tmp_path / "systemd-ask-password"
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setattr(ask_password, "_PROGRAM", str(program))
    monkeypatch.setattr(ask_password, "_SYSTEMD", tmp_path)
    way = AskPassword()
    assert way.fits(PIN)
    assert not way.fits(Question("May it?"))
    assert await way.ask(PIN) == said
    words = (tmp_path / "words").read_text()
    assert words == "--no-tty --timeout=7 --id=cardferry:pin -- ssh:build1 wants the PIN PIN:\n"


async def test_without_it_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_password, "_PROGRAM", "/nowhere/systemd-ask-password")
    assert not AskPassword().fits(PIN)
    assert await AskPassword().ask(PIN) is None
