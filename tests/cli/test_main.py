"""The command line from outside: two lines for each error, exit codes, and a quick start."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import click
import pytest

import cardferry
from cardferry import __version__
from cardferry.app.runtime.paths import runtime_folder
from cardferry.cli.main import COMMANDS, main
from cardferry.pcsc.errors import UserError
from tests.app.stopped import stopped


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(exited.value.code, int)
    return exited.value.code, out, err


@pytest.fixture(autouse=True)
def _private_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own can be too long for sockets
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"cardferry.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    code, out, err = run([name, "--help"], capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cardferry {name}")


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["--help"], capsys)
    assert code == 0
    for name, line in COMMANDS.items():
        assert f"  {name} " in out
        assert line in out


def test_help_imports_no_command() -> None:
    script = (
        "import sys\nfrom cardferry.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('asyncio', 'rich', 'cryptography', 'uvloop', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capsys) == (0, f"cardferry {__version__}\n", "")


WRONG = [
    ([], "no command", "cardferry --help"),
    (["nosuch"], "No such command 'nosuch'", "cardferry --help"),
    (["--nosuch"], "No such option", "cardferry --help"),
    (["attach"], "Missing argument", "cardferry attach --help"),
    (["attach", "--nosuch", "x"], "No such option", "cardferry attach --help"),
    (["attach", "x", "--mode", "999"], "is not a mode in octal", "cardferry attach --help"),
    (["attach", "x", "--max-idle", "0"], "--max-idle", "cardferry attach --help"),
    (["attach", "x", "--max-idle", "soon"], "--max-idle", "cardferry attach --help"),
    (["attach", "x", "--exclusive", "maybe"], "--exclusive", "cardferry attach --help"),
    (["attach", "gopher://x"], "not a HOST", "HOST is one of"),
    (["attach", "-oProxyCommand=x"], "", "--help"),
    (["share"], "Missing argument", "cardferry share --help"),
    (["run"], "Missing argument", "cardferry run --help"),
    (["env", "x", "y"], "unexpected extra argument", "cardferry env --help"),
    (["status", "x"], "unexpected extra argument", "cardferry status --help"),
]


@pytest.mark.parametrize(("arguments", "error", "hint"), WRONG, ids=[" ".join(words) for words, *_ in WRONG])
def test_wrong_usage_is_two_lines_and_exit_code_2(
    arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments, capsys)
    assert code == 2
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


FAILURES = [
    (["share", "virtual:"], 2, "share needs another computer", "ssh://"),
    (["attach", "pcscd:/no/such/socket"], 30, "there is no pcscd socket at /no/such/socket", "pcscd:/run/"),
    (["attach", "x", "-e", "/no/such/ssh"], 20, "no program '/no/such/ssh'", "openssh-client"),
    (["attach", "x", "-e", ""], 2, "the ssh command is empty", "--ssh"),
    (["attach", "virtual:", "--socket", "/" + "x" * 107], 10, "108 bytes", "--socket"),
    (["attach", "virtual:", "--socket", "/no/such/folder/x"], 12, "No such file", "--socket"),
    (["run", "true"], 40, "nothing is attached", "--from HOST"),
    (["env"], 40, "nothing is attached", "cardferry attach HOST"),
    (["env", "computer1"], 40, "computer1 is not attached", "cardferry attach computer1"),
    (["run", "--from", "virtual:", "/no/such/command"], 127, "cannot run /no/such/command", "check"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"), FAILURES, ids=[" ".join(words) for words, *_ in FAILURES]
)
def test_each_failure_is_two_lines_and_an_exit_code_of_its_own(
    arguments: list[str], code: int, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exited, out, err = run(arguments, capsys)
    assert (exited, out) == (code, "")
    first, second = err.splitlines()[-2:]
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


def test_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"], capsys) == (0, "nothing is attached or shared\n", "")


def test_status_names_what_is_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cardferry.app.runtime.status_socket._ANSWER_TIME", 0.01)
    with stopped(runtime_folder() / "new") as pid:
        (runtime_folder() / "new").rename(runtime_folder() / f"{pid}.ctl")
        told = f"process {pid} is stopped: timed out; kill -CONT {pid} lets it go on\n"
        assert run(["status"], capsys) == (0, "", told)
    assert run(["status", "--json"], capsys) == (0, "[]\n", "")


def subclasses(kind: type[UserError]) -> set[type[UserError]]:
    return {kind}.union(*(subclasses(sub) for sub in kind.__subclasses__()))


def test_every_exit_code_is_documented() -> None:
    for module in pkgutil.walk_packages(cardferry.__path__, "cardferry."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    text = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    documented = {int(line.split("|")[1]) for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()}
    used = {kind.exit_code for kind in subclasses(UserError) if kind.__module__.startswith("cardferry.")}
    assert used <= documented


def test_output_that_nobody_reads_is_no_traceback() -> None:
    command = f"{sys.executable} -m cardferry --help | true; {sys.executable} -m cardferry status --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("module", ["click", "msgspec"])
def test_ctrl_c_before_anything_has_begun_ends_it_as_other_programs(tmp_path: Path, module: str) -> None:
    """Also while the command's own modules are imported, the second of which is one."""
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "cardferry", "status"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_that_is_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    command = f"trap '' INT; exec {sys.executable} -m cardferry status --json"
    (tmp_path / "click.py").write_text(
        "import os, signal, sys\nos.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.path.remove({str(tmp_path)!r})\ndel sys.modules['click']\nimport click\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("words", [["--help"], ["status"], ["readers", "--json"]])
def test_a_full_disk_behind_standard_output_is_an_error_like_others(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cardferry", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\nhint: make room on that disk\n")


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENFILE, "end programs that have many files open"),
        (errno.ENOMEM, "end programs that need much memory"),
        (errno.EDQUOT, "make room: the account may not use more of that disk"),
    ],
)
def test_what_the_computer_lacks_is_an_error_with_what_helps(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lack, out = OSError(number, os.strerror(number)), sys.stdout
    monkeypatch.setattr("cardferry.cli.status.runtime_folder", mock.Mock(side_effect=[lack, runtime_folder()]))
    assert run(["status"], capsys) == (1, "", f"error: {lack.strerror}\nhint: {hint}\n")
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["status"], capsys) == (0, "nothing is attached or shared\n", "")


_MUCH = 100_000
_SAYS_MUCH = f"""
import signal
from cardferry.cli import main, say
signal.signal(signal.SIGUSR1, lambda *_: None)
main._open_standard_streams()
say.say_json("x" * {_MUCH})
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_the_kernel_takes_in_pieces_is_written_whole(unbuffered: str) -> None:
    """A signal ends a write to a pipe that is full; what is left must follow."""
    with subprocess.Popen(
        [sys.executable, "-c", _SAYS_MUCH],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout is not None
        capacity = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
        waiting = array("i", [0])
        while waiting[0] < capacity:
            assert process.poll() is None
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
        process.send_signal(signal.SIGUSR1)
        while (
            process.poll() is None
            and "ShdPnd:\t0000000000000000\n" not in Path(f"/proc/{process.pid}/status").read_text()
        ):
            pass  # not delivered yet
        assert process.stdout.read() == b'"' + b"x" * _MUCH + b'"\n'


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_somebody_made_non_blocking_is_waited_for(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filling = os.write(writing, bytes(1 << 20))
    with subprocess.Popen(
        [sys.executable, "-m", "cardferry", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        while not os.get_blocking(writing) and process.poll() is None:
            time.sleep(0.001)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()[filling:]
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == (b"", 0)
    assert said.endswith(b"explain a command\n")


def test_closed_standard_streams_are_not_taken_by_sockets() -> None:
    script = (
        "import os, sys\nfrom cardferry.cli.main import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "sys.exit([os.stat(number).st_rdev for number in range(3)] != [os.stat(os.devnull).st_rdev] * 3)"
    )
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, script], check=False)
    assert done.returncode == 0
