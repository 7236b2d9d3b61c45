from __future__ import annotations

from pathlib import Path

import pytest

from bench import guard


async def test_each_command_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_ROUNDS", 1)
    monkeypatch.setattr(guard, "_COMMANDS", 2)
    monkeypatch.setattr(guard, "_BATCH", 1)
    assert list(await guard.measure(tmp_path, "on")) == ["SELECT", "GET DATA", "sign"]
    assert (tmp_path / "audit.jsonl").read_text().count('"sign:9C"') == 2
