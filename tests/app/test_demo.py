"""The demo works with whatever a machine has."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cardferry.app.demo import programs, stage, story


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For sockets: pytest's own folders are too long."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:
        yield Path(folder)


def told() -> str:
    output = io.StringIO()
    story.tell(Console(file=output, width=140, highlight=False))
    return output.getvalue()


@pytest.mark.real
def test_with_everything_installed_the_parts_are_real_and_plain_forwarding_is_compared() -> None:
    text = told()
    assert "a real pcscd with a vpcd reader" in text
    assert "a real ssh to a real sshd" in text
    assert "pkcs11-tool --login" in text
    assert "Verified OK" in text
    assert "GENERAL AUTHENTICATE" in text
    assert len(re.findall(r"█ [0-9.]+ s", text)) == 2


def test_with_nothing_installed_the_embedded_parts_sign_and_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "program", lambda name: None)
    monkeypatch.setattr(programs, "program", lambda name: None)
    text = told()
    assert "two folders on this one" in text
    assert "cardferry with its own reader" in text
    assert "the socket itself (no OpenSSH here)" in text
    assert "Verified OK" in text
    assert "GENERAL AUTHENTICATE" in text


@pytest.mark.real
def test_a_user_without_a_name_whom_ssh_refuses_sees_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    text = told()
    assert f"the socket itself (user {os.geteuid()} has no name here, as ssh wants)" in text
    assert "Verified OK" in text


@pytest.mark.real
@pytest.mark.parametrize(
    ("computer", "emptied", "why"),
    [
        ("host", "authorized_keys", "demo-host refused the login: .*Permission denied"),
        ("guest", "known_hosts", "the key of demo-host is not known here"),
    ],
)
def test_where_ssh_is_of_no_use_attach_says_why_and_the_socket_itself_is_the_connection(
    monkeypatch: pytest.MonkeyPatch, computer: str, emptied: str, why: str
) -> None:
    whole = stage.Stage._make_connection

    def without(self: stage.Stage) -> None:
        whole(self)
        (getattr(self, computer).folder / emptied).write_text("")

    monkeypatch.setattr(stage.Stage, "_make_connection", without)
    text = told()
    assert re.search(rf"the socket itself \({why}", text)
    assert "Verified OK" in text


def test_the_demo_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> None:
    monkeypatch.setattr(stage, "program", lambda name: None)
    monkeypatch.setattr(programs, "program", lambda name: None)
    monkeypatch.setattr("tempfile.tempdir", str(short_folder))
    told()
    assert list(short_folder.iterdir()) == []


def test_a_part_that_does_not_start_is_named(tmp_path: Path) -> None:
    computer = stage.Computer("host", tmp_path)
    with pytest.raises(stage.DemoError, match="sh did not start in the demo: no luck") as told:
        stage.Stage().start(computer, ["sh", "-c", "echo no luck"], b"ready")
    _, command = told.value.hint.split(": ")
    assert subprocess.check_output(["sh", "-c", command]) == b"no luck\n"


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    guest = programs.Guest(stage.Computer("guest", tmp_path), tmp_path / "none")
    with pytest.raises(stage.DemoError, match="a step of the demo failed: cat nothing: cat: nothing: No such file"):
        guest._step("Read", ["cat", "nothing"])
