"""What `cardferry top` shows, on 80 columns, and what its keys do."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from cardferry.app.runtime import status_socket
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.cli.top import Screen, command
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus, WaiterStatus

BUSY = SlotStatus(
    "Busy 00 00", "present", "3b80800101", "T1", 1, 1, [], "gpg", "ssh:build1", 1.5,
    [WaiterStatus("sign", "ssh:build2", 0.5, 1, 2.5), WaiterStatus("scdaemon", "ssh:build3", 0.25, 2, None)],
    mean_turn=4.0, commands=100,
)  # fmt: skip
IDLE = SlotStatus("An idle one 00 00", "present", "3b80800101", "T1", 0, 1, [], None, "", 0.0, [], commands=7)
GUEST = HostSessionStatus("ssh:build1", "b", "cardferry", True, 0.0123, 1, 1, 0, 1, 1, 1, 1, 3, 0, 0, 40, 2)


def told(*slots: SlotStatus) -> list[Running]:
    link = Link("pcscd:", "up", "/run/x", "link", guest=GUEST)
    return [Running("host", 7, 0.0, [link], 1, list(slots), 7), Running("share", 8, 1.0, [], 1, list(slots), 7)]


def order(screen: Screen) -> list[str]:
    lines = screen.lines(told(IDLE, BUSY), 0.0, 80)
    return [name for line in lines for name in ("An idle one", "Busy") if line.startswith(name)]


def test_who_has_a_card_and_who_waits_with_place_and_time() -> None:
    text = "\n".join(Screen().lines(told(IDLE, BUSY), 0.0, 80))
    assert "2 readers, 2 waiting" in text
    assert "4.0 s  1.5 s ssh:build1: gpg" in text
    assert "1. ssh:build2: sign  waits 0.5 s, about 2.5 s more" in text
    assert "2. ssh:build3: scdaemon  waits 0.2 s\n" in text
    assert "12.3 ms       3       40       2  up" in text


def test_commands_a_second_are_those_since_the_last_look() -> None:
    screen = Screen()
    screen.lines(told(BUSY), 10.0, 80)
    assert "  25.0  " in "\n".join(screen.lines(told(replace(BUSY, commands=150)), 12.0, 80))
    assert "   0.0  " in "\n".join(screen.lines(told(replace(BUSY, commands=0)), 14.0, 80))  # it began anew


def test_keys_sort() -> None:
    screen = Screen()
    assert order(screen) == ["Busy", "An idle one"]
    screen.press("r")
    assert order(screen) == ["An idle one", "Busy"]
    screen.press("h")
    assert order(screen) == ["Busy", "An idle one"]
    screen.press("?")
    screen.press(None)
    assert screen.sort == "held"


def test_nothing_is_wider_than_the_screen_whatever_others_call_themselves() -> None:
    waiters = [WaiterStatus("\x1b[2J" * 30, "ssh:" + "y" * 100, 0.5, 1, 2.5)]
    evil = replace(BUSY, reader="x" * 127, holder="\x1b]0;" + "z" * 200, waiters=waiters)
    lines = Screen().lines(told(evil), 0.0, 80)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert any(line.endswith("waits 0.5 s, about 2.5 s more") for line in lines)


def environment(folder: str) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": folder, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}


def test_once_prints_one_screen_and_ends() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        words = [sys.executable, "-m", "cardferry", "top", "--once"]
        done = subprocess.run(words, env=environment(folder), capture_output=True, text=True, check=True, timeout=60)
    assert "0 readers, 0 waiting" in done.stdout
    assert "nothing is attached or shared" in done.stdout


def test_the_service_of_the_whole_computer_is_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `status` shows it."""
    service = Running("system", 7, 0.0, [Link("this computer", "up", "/run/pcscd/pcscd.comm")], 1, [BUSY], 7)
    monkeypatch.setattr(status_socket, "system_running", lambda silent: service)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    shown = CliRunner().invoke(command, ["--once"], catch_exceptions=False).output
    assert BUSY.reader in shown


def test_on_a_terminal_keys_are_heard_and_q_ends_it() -> None:
    ours, theirs = pty.openpty()
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        words = [sys.executable, "-m", "cardferry", "top"]
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(folder))
        try:
            seen = read_until(ours, b"by waiting")
            os.write(ours, b"c")
            seen += read_until(ours, b"by commands")
            os.write(ours, b"q")
            seen += read_until(ours, b"\x1b[?1049l")  # the screen that was there before
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)
            os.close(theirs)


def read_until(descriptor: int, words: bytes) -> bytes:
    seen = b""
    until = time.monotonic() + 30
    while words not in seen:
        assert select.select([descriptor], [], [], until - time.monotonic())[0], seen
        seen += os.read(descriptor, 65536)
    return seen
