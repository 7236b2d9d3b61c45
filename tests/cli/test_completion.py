"""Completion in the shells themselves, help, and what is said of words that are nearly right."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.app.runtime import ascii_json
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.cli.main import COMMANDS
from cardferry.cli.names import ssh_hosts
from cardferry.manager.status import SlotStatus
from tests.cli.test_main import run
from tests.lab.computer import CARDFERRY

READER = "ACME (tm) Reader, 2 slots 00 00"
#: What a shell does with COMPREPLY is not in it: the words, as they would be typed, one a line.
_BASH = """
source <(echo "$SCRIPT")
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
compopt() {{ echo "compopt $*"; }}
_cardferry_completion cardferry
printf '%s\\n' "${{COMPREPLY[@]}}"
""".replace("{{", "{").replace("}}", "}")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somebody's home, with hosts, and with a reader attached."""
    with TemporaryDirectory() as folder:
        own = Path(folder)
        (own / ".ssh" / "more").mkdir(parents=True)
        (own / ".ssh" / "config").write_text(
            'Include more/*.conf\nHost laptop "lap2" *.example.org !not\n  HostName 10.0.0.1\nhost=desk\nMatch host x\n'
        )
        (own / ".ssh" / "more" / "work.conf").write_text("Host build1\n")
        monkeypatch.setenv("HOME", folder)
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("PATH", f"{CARDFERRY.parent}:{os.environ['PATH']}")
        runtime = own / "cardferry"
        runtime.mkdir(mode=0o700)
        with attached(runtime / "1.ctl"):
            yield own


class attached:  # noqa: N801 - used like a function
    """A command that tells of one reader, at its control socket, for the block."""

    def __init__(self, path: Path) -> None:
        slots = [SlotStatus(name, "", "", "", 0, 0, [], None, "", 0.0, []) for name in (READER, "evil\x1b[2J")]
        running = Running("attach", os.getpid(), 0.0, [Link("far", "up", "/s")], 0, slots)
        self._answer = f"{ascii_json.encode(running)}\n".encode()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()

    def __enter__(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self._answer)


@cache
def bash_script() -> str:
    return subprocess.run([CARDFERRY, "completion", "bash"], capture_output=True, text=True, check=True).stdout


def bash(*words: str) -> list[str]:
    """What bash offers at the end of these words."""
    environment = {**os.environ, "SCRIPT": bash_script()}
    done = subprocess.run(
        ["bash", "-c", _BASH, "cardferry", *words], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.usefixtures("home")
def test_bash_completes_commands_options_and_their_values() -> None:
    assert bash("cardferry", "s") == ["share", "status", "setup"]
    assert bash("cardferry", "") == list(COMMANDS)
    assert bash("cardferry", "help", "at") == ["attach"]
    assert bash("cardferry", "help", "setup", "sy") == ["system"]
    assert bash("cardferry", "setup", "service", "a") == ["attach"]
    assert bash("cardferry", "setup", "system", "--dr") == ["--dry-run"]
    assert bash("cardferry", "attach", "--gr") == ["--grace", "--group"]
    assert bash("cardferry", "attach", "--exclusive", "h") == ["honour"]
    assert bash("cardferry", "attach", "--socket", "")[:2] == ["compopt -o", "default"]


@pytest.mark.usefixtures("home")
def test_bash_reads_what_the_command_prints() -> None:
    asked = "source <(cardferry completion bash); complete -p cardferry"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o nosort -F _cardferry_completion cardferry\n"


@pytest.mark.usefixtures("home")
def test_bash_completes_hosts_of_ssh_and_what_is_attached() -> None:
    assert bash("cardferry", "attach", "") == ["build1", "laptop", "lap2", "desk", "far"]
    assert bash("cardferry", "attach", "desk", "lap") == ["laptop", "lap2"]
    assert bash("cardferry", "run", "--from", "d") == ["desk"]
    assert bash("cardferry", "attach", "me@b") == ["me@build1"]


@pytest.mark.usefixtures("home")
def test_bash_completes_readers_and_quotes_them() -> None:
    assert bash("cardferry", "host", "--reader", "") == [r"ACME\ \(tm\)\ Reader\,\ 2\ slots\ 00\ 00"]
    assert bash("cardferry", "attach", "--reader", r"ACME\ \(tm") == [r"ACME\ \(tm\)\ Reader\,\ 2\ slots\ 00\ 00"]
    assert bash("cardferry", "share", "--reader", '"ACME (tm) R') == [READER]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_asked_likewise(shell: str) -> None:
    variables = {"_CARDFERRY_COMPLETE": f"{shell}_complete", "COMP_WORDS": "cardferry attach la", "COMP_CWORD": "2"}
    if shell == "fish":
        variables["COMP_CWORD"] = "la"
    done = subprocess.run([CARDFERRY], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert "laptop" in done.stdout
    assert "build1" not in done.stdout
    script = subprocess.run([CARDFERRY, "completion", shell], capture_output=True, text=True, check=True).stdout
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"not run, missing: {shell}, which would read its script")
    subprocess.run([program, "-n", "/dev/stdin"], input=script, text=True, check=True)


def test_fish_itself_completes(home: Path) -> None:
    if (fish := shutil.which("fish")) is None:
        pytest.skip("not run, missing: fish")
    asked = 'cardferry completion fish | source; complete -C "cardferry attach la"'
    done = subprocess.run([fish, "--no-config", "-c", asked], capture_output=True, text=True, check=True, cwd=home)
    assert set(done.stdout.split()) == {"laptop", "lap2"}


def test_nobody_has_a_configuration(tmp_path: Path) -> None:
    assert list(ssh_hosts(tmp_path / "config", tmp_path)) == []


def test_a_configuration_that_includes_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host one\nInclude config\n")
    assert set(ssh_hosts(tmp_path / "config", tmp_path)) == {"one"}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["atach", "x"], "hint: did you mean attach? see `cardferry --help`"),
        (["help", "redaers"], "hint: did you mean readers? see `cardferry --help`"),
        (["attach", "--sockt", "x"], "hint: did you mean --socket? see `cardferry attach --help`"),
        (["qqq"], "hint: see `cardferry --help`"),
    ],
)
def test_what_is_nearly_right_is_named(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(words, capsys)
    assert code == 2
    assert err.splitlines()[1] == hint


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help"], capsys) == run(["--help"], capsys)
    assert run(["help", "attach"], capsys) == run(["attach", "--help"], capsys)
    assert run(["help", "setup", "system"], capsys) == run(["setup", "system", "--help"], capsys)
    assert run(["help", "attach", "x"], capsys)[0] == 2
    assert run(["-V"], capsys) == run(["--version"], capsys)
