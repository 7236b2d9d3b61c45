"""The configuration file is read only where nobody else can have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cardferry.policy.configuration_file import ConfigurationError, read_text


def refusal(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as told:
        read_text(path)
    return told.value


def test_the_empty_device_is_an_empty_file() -> None:
    assert read_text(Path("/dev/null")) == ""


def test_the_hint_about_rights_is_for_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "my config.toml"
    path.write_text("keep-tries = 2\n")
    path.chmod(0o664)
    error = refusal(path)
    assert "others may write it" in error.message
    assert error.hint == f"chmod go-w '{path}', or name another file with --config"
    path.chmod(0o644)
    assert read_text(path) == "keep-tries = 2\n"


def test_nobody_is_told_to_change_the_rights_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: pytest.fail("it has no end"))
    assert refusal(Path("/dev/zero")).hint == "name another file with --config"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_nobody_is_told_to_change_the_rights_of_somebody_elses_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    os.chown(path, 65534, -1)
    error = refusal(path)
    assert error.message.endswith("cannot be trusted: it is somebody else's")
    assert error.hint == "name another file with --config"
