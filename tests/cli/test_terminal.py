"""At a terminal: ssh asks its questions there, and Ctrl-C ends everything in order."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Computer, Lab, LabError
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY
from tests.lab.process import run, wait_until
from tests.lab.recipe import Recipe

pytestmark = pytest.mark.real

CTRL_C = b"\x03"


class Terminal:
    """A person at a terminal of a computer, and the program in its foreground."""

    def __init__(self, computer: Computer, words: Sequence[str | Path]) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._seen = 0
        self.process = subprocess.Popen(
            computer.command(words),
            env=computer.env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - this test has no threads
        )
        os.close(theirs)

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        """Wait until the terminal shows it, after what was waited for before."""
        deadline = time.monotonic() + timeout
        while (found := self.shown.find(text, self._seen)) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._ours], [], [], left)[0]:
                raise LabError(f"the terminal does not show {text!r}: {self.shown}")
            try:
                self.shown += os.read(self._ours, 65536).decode()
            except OSError as error:  # nobody has it open any more
                raise LabError(f"the terminal did not show {text!r}: {self.shown}") from error
        self._seen = found + len(text)

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def close(self) -> None:
        os.close(self._ours)
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


@contextmanager
def at_terminal(computer: Computer, *words: str | Path) -> Iterator[Terminal]:
    terminal = Terminal(computer, words)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def recipe(lab: Lab) -> Recipe:
    made = Recipe(lab)
    fake_card(made.pcscd)
    return made


def locked(recipe: Recipe) -> Path:
    """A configuration whose key has a passphrase, and which does not forbid to ask for it."""
    key = recipe.guest.home / "locked"
    key.write_bytes(recipe.host_sshd.user_key.read_bytes())
    key.chmod(0o600)
    run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key]).check()
    return recipe.host_sshd.config(recipe.guest, "host", options={"IdentityFile": str(key), "BatchMode": "no"})


def test_ssh_asks_for_the_passphrase_once_and_at_the_terminal(recipe: Recipe) -> None:
    words = (CARDFERRY, "attach", "-e", f"ssh -F {locked(recipe)}", "host")
    with at_terminal(recipe.guest, *words) as terminal:
        terminal.wait_for("Enter passphrase for key")
        terminal.type(b"open sesame\n")
        terminal.wait_for("ready ")
        assert terminal.shown.count("Enter passphrase") == 1


def test_a_wrong_passphrase_is_a_refused_login(recipe: Recipe) -> None:
    words = (CARDFERRY, "attach", "-e", f"ssh -F {locked(recipe)}", "host")
    with at_terminal(recipe.guest, *words) as terminal:
        for _ in range(3):
            terminal.wait_for("Enter passphrase for key")
            terminal.type(b"wrong\n")
        terminal.wait_for("error: host refused the login")
        assert terminal.process.wait(10) == 24


def test_ctrl_c_while_ssh_asks_ends_it(recipe: Recipe) -> None:
    words = (CARDFERRY, "attach", "-e", f"ssh -F {locked(recipe)}", "host")
    with at_terminal(recipe.guest, *words) as terminal:
        terminal.wait_for("Enter passphrase for key")
        terminal.type(CTRL_C)
        assert terminal.process.wait(10) == 0
        assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("command", ["attach", "share"])
def test_ctrl_c_ends_both_sides_in_order(recipe: Recipe, command: str) -> None:
    here, there = (recipe.guest, recipe.host) if command == "attach" else (recipe.host, recipe.guest)
    config, name = (recipe.to_host, "host") if command == "attach" else (recipe.to_guest, "guest")
    folders = [computer.outside(computer.runtime / "cardferry") for computer in (here, there)]
    with at_terminal(here, CARDFERRY, command, "-e", f"ssh -F {config}", name) as terminal:
        terminal.wait_for("export PCSCLITE_CSOCK_NAME=")
        terminal.type(CTRL_C)
        assert terminal.process.wait(10) == 0
        assert "Traceback" not in terminal.shown
        assert "lost" not in terminal.shown
    assert [path for folder in folders if folder.exists() for path in folder.iterdir()] == []


def test_a_terminal_that_is_closed_leaves_nothing_behind(recipe: Recipe) -> None:
    folder = recipe.guest.outside(recipe.guest.runtime / "cardferry")
    words = (CARDFERRY, "share", "-e", f"ssh -F {recipe.to_guest}", "guest")
    with at_terminal(recipe.host, *words) as terminal:
        terminal.wait_for("export PCSCLITE_CSOCK_NAME=")
        assert [path.name for path in folder.glob("*.sock")] == [f"{recipe.host.name}.sock"]
    wait_until(lambda: list(folder.iterdir()) == [], "the socket over there goes")


def test_ctrl_c_at_a_command_run_with_readers_goes_to_the_command_once(recipe: Recipe) -> None:
    script = "trap 'echo interrupted' INT; echo running; sleep 1; sleep 0.2; echo over; exit 3"
    words = (CARDFERRY, "run", "-e", f"ssh -F {recipe.to_host}", "--from", "host", "--", "sh", "-c", script)
    with at_terminal(recipe.guest, *words) as terminal:
        terminal.wait_for("running")
        terminal.type(CTRL_C)
        terminal.wait_for("over")
        assert terminal.process.wait(10) == 3
        assert terminal.shown.count("interrupted") == 1
