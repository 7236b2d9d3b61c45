"""Who else starts programs, and what they have: gpg-agent asked without starting it, and the variable given to all.

``systemctl``, ``gpgconf`` and the like are scripts here; ``tests/real/test_user_manager.py`` has the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cardferry.app.commands import user_session
from cardferry.app.commands.user_session import (
    GpgAgent,
    NotImportedError,
    gpg_agent,
    import_variable,
    in_user_manager,
)
from cardferry.app.commands.variable import VARIABLE

Programs = Callable[..., None]

MANAGER = f'case "$*" in *show-env*) echo {VARIABLE}=/m;; *is-active*) printf "active\\n$STATE\\n";; esac'
DEFAULT, OTHER = "echo /run/user/1/gnupg/S.gpg-agent", "echo /run/user/1/gnupg/d.abc/S.gpg-agent"
ANSWERS = {
    "D /x%25y%0A\nOK": "/x%y\n",
    "ERR 67108891 Not found <GPG Agent> - No such envvar": "",
    "ERR 67109139 Unknown IPC command <GPG Agent>": None,
    "": None,
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Gives this computer programs, each with what it does in sh; what they note is in ``log``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(user_session, "has_process", lambda name: True)

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script.replace('LOG', str(tmp_path / 'log'))}\n")
            path.chmod(0o755)

    return make


@pytest.mark.parametrize("answer", ANSWERS)
async def test_the_agent_itself_is_asked(programs: Programs, answer: str) -> None:
    programs(gpgconf=DEFAULT, gpg_connect_agent=f"[ $1 = --no-autostart ] && printf '%s\\n' '{answer}'")
    value = ANSWERS[answer]
    assert await gpg_agent() == (None if value is None else GpgAgent(value, runs=True, by_manager=False))


async def test_without_gnupg_or_without_an_agent_there_is_nothing_to_say(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await gpg_agent() is None
    programs(gpgconf=DEFAULT, gpg_connect_agent="echo asked >>LOG")
    monkeypatch.setattr(user_session, "has_process", lambda name: False)
    assert await gpg_agent() is None


@pytest.mark.parametrize(
    ("path", "state", "found", "asked"),
    [
        (DEFAULT, "active", GpgAgent("/a", runs=True, by_manager=True), True),
        (DEFAULT, "inactive", GpgAgent("/m", runs=False, by_manager=True), False),
        (OTHER, "inactive", GpgAgent("/a", runs=True, by_manager=False), True),
    ],
    ids=["runs", "would be started", "another GNUPGHOME"],
)
async def test_an_agent_that_the_manager_would_start_is_not_started(
    programs: Programs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    state: str,
    found: GpgAgent,
    asked: bool,
) -> None:
    monkeypatch.setenv("STATE", state)
    programs(systemctl=MANAGER, gpgconf=path, gpg_connect_agent="echo asked >>LOG; echo 'D /a'; echo OK")
    assert await gpg_agent() == found
    assert (tmp_path / "log").exists() is asked


async def test_what_the_manager_has(programs: Programs) -> None:
    assert await in_user_manager(VARIABLE) is None
    programs(systemctl="echo Failed to connect to bus >&2; exit 1")
    assert await in_user_manager(VARIABLE) is None
    programs(systemctl=f"echo HOME=/x; echo X{VARIABLE}=/no; echo {VARIABLE}=/y=z")
    assert (await in_user_manager(VARIABLE), await in_user_manager("NOT")) == ("/y=z", "")


async def test_the_variable_is_given_to_all_who_are_there(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotImportedError, match="no systemd manager and no D-Bus session"):
        await import_variable("/x")
    programs(
        systemctl=f'case "$*" in *show-env*) ;; *) echo "systemctl $* ${VARIABLE}" >>LOG;; esac',
        dbus_update_activation_environment=f'echo "dbus $* ${VARIABLE}" >>LOG',
    )
    assert len((await import_variable("/x")).done) == 1
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    result = await import_variable("/y")
    assert ([line.split(" has ")[0] for line in result.done], result.failed) == (
        ["systemd's user manager", "the D-Bus session"],
        [],
    )
    assert (tmp_path / "log").read_text().splitlines() == [
        f"systemctl --user import-environment {VARIABLE} /x",
        f"systemctl --user import-environment {VARIABLE} /y",
        f"dbus --systemd {VARIABLE} /y",
    ]


async def test_who_does_not_take_it_is_named(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(
        systemctl='case "$*" in *show-env*) ;; *) echo "Invalid environment" >&2; exit 1;; esac',
        dbus_update_activation_environment="exec /bin/sleep 60",
    )
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.setattr(user_session, "_PATIENCE", 0.5)
    result = await import_variable("/x")
    assert result.done == []
    assert result.failed == ["systemd's user manager: Invalid environment", "the D-Bus session does not answer"]
