"""A PIN that the host keeps: where, and who else must not read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.policy.pin.secret import SecretError, SecretPlace


def kept(folder: Path, text: str = "123456\n", mode: int = 0o600) -> Path:
    path = folder / "pin"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_private_file(tmp_path: Path) -> None:
    assert SecretPlace.parse(f"file:{kept(tmp_path)}").read() == "123456"


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    kept(tmp_path)
    place = SecretPlace.parse("credential:pin")
    assert place.read({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "123456"
    with pytest.raises(SecretError, match="systemd has given none"):
        place.read({})


@pytest.mark.parametrize(("text", "mode"), [("1", 0o640), ("1", 0o604), ("", 0o600), ("x" * 65, 0o600), ("ü", 0o600)])
def test_what_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    with pytest.raises(SecretError):
        SecretPlace.parse(f"file:{kept(tmp_path, text, mode)}").read()


@pytest.mark.parametrize("text", ["", "file:pin", "credential:../x", "keyring:x", "123456"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        SecretPlace.parse(text)
