"""A PIN that the host keeps: where, and who else must not read it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import InitError

from cardferry.policy.pin.secret import SecretError, SecretPlace


def kept(folder: Path, text: str = "123456\n", mode: int = 0o600) -> Path:
    path = folder / "pin"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_a_private_file(tmp_path: Path) -> None:
    assert await SecretPlace.parse(f"file:{kept(tmp_path)}").read() == b"123456"


async def test_a_credential_of_systemd(tmp_path: Path) -> None:
    kept(tmp_path)
    place = SecretPlace.parse("credential:pin")
    assert await place.read({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == b"123456"
    with pytest.raises(SecretError, match="systemd has given none"):
        await place.read({})


@pytest.mark.parametrize(("mode", "kind", "taken"), [
    (0o440, "credential", True), (0o444, "credential", False), (0o440, "file", False),
])  # fmt: skip
async def test_a_credential_for_a_user_of_a_unit_has_an_access_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, kind: str, taken: bool
) -> None:
    """Its mask is shown as what root's group may do."""
    path = kept(tmp_path, mode=mode)
    fstat = os.fstat

    def of_root(file: int) -> os.stat_result:
        found = list(fstat(file))
        return os.stat_result([*found[:4], 0, 0, *found[6:]])

    monkeypatch.setattr(os, "fstat", of_root)
    place = SecretPlace.parse("credential:pin" if kind == "credential" else f"file:{path}")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    if taken:
        assert await place.read(environ) == b"123456"
    else:
        with pytest.raises(SecretError, match="others can read"):
            await place.read(environ)


class InMemory(KeyringBackend):
    """A desktop's keyring: locked, or with one PIN."""

    priority = 1
    locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise InitError("it is locked")
        return "123456" if (service, username) == ("cardferry", "yubikey 1234") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    before = keyring.get_keyring()
    monkeypatch.setattr(keyring.core, "_keyring_backend", before)
    keyring.set_keyring(backend := InMemory())  # type: ignore[no-untyped-call]
    return backend


async def test_the_keyring_of_the_desktop(desktop: InMemory) -> None:
    assert await SecretPlace.parse("keyring:cardferry/yubikey 1234").read() == b"123456"
    with pytest.raises(SecretError, match="there is no PIN in keyring:cardferry/another") as caught:
        await SecretPlace.parse("keyring:cardferry/another").read()
    assert caught.value.hint == "keyring set cardferry another"
    desktop.locked = True
    with pytest.raises(SecretError, match="it is locked"):
        await SecretPlace.parse("keyring:cardferry/yubikey 1234").read()


async def test_without_the_library_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SecretError, match="not installed") as caught:
        await SecretPlace.parse("keyring:cardferry/x").read()
    assert "cardferry[keyring]" in caught.value.hint


@pytest.mark.parametrize(("text", "mode"), [("1", 0o640), ("1", 0o604), ("", 0o600), ("x" * 65, 0o600), ("ü", 0o600)])
async def test_what_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    with pytest.raises(SecretError):
        await SecretPlace.parse(f"file:{kept(tmp_path, text, mode)}").read()


@pytest.mark.parametrize("text", ["", "file:pin", "credential:../x", "keyring:x", "keyring:/x", "keyring:x/", "123456"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        SecretPlace.parse(text)
