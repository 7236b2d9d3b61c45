"""attach, env, run, status and readers together, as programs, with the built-in card and no other computer."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.process import Running, run


class Session:
    """A user whose only runtime folder is the test's."""

    def __init__(self, runtime: Path) -> None:
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.runtime = runtime / "cardferry"
        self.started: list[Running] = []

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cardferry", *words]

    def start(self, *words: str) -> Running:
        self.started.append(Running(self.words(*words), self.env))
        return self.started[-1]

    def attach(self, *words: str) -> tuple[Running, str]:
        """Attach; returns the socket once the ready line has come."""
        process = self.start("attach", *words)
        path = process.wait_for("^ready (.*)$")[1]
        assert shlex.split(process.wait_for("^export ").string) == ["export", f"PCSCLITE_CSOCK_NAME={path}"]
        return process, path

    def __call__(self, *words: str) -> str:
        return run(self.words(*words), self.env).check().out


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    one = Session(tmp_path)
    yield one
    for process in one.started:
        process.close()


def test_attach_env_status_readers_run_and_a_clean_end(session: Session) -> None:
    process, path = session.attach("virtual:")
    assert path == str(session.runtime / "virtual.sock")
    assert session("env") == session("env", "virtual:") == f"export PCSCLITE_CSOCK_NAME={path}\n"

    (status,) = json.loads(session("status", "--json"))
    assert status["command"] == "attach"
    assert status["pid"] == process.pid
    (link,) = status["links"]
    assert {name: value for name, value in link.items() if value} == {"host": "virtual:", "state": "up", "socket": path}
    (reader,) = status["readers"]
    assert reader["atr"].startswith("3b")
    assert reader["holder"] is None
    assert reader["waiters"] == []

    (row,) = json.loads(session("readers", "--json"))
    assert row["reader"] == reader["reader"]
    assert row["hosts"] == ["virtual:"]
    assert reader["reader"] in session("readers")
    assert reader["atr"] in session("status")

    show = ("sh", "-c", "printf %s $PCSCLITE_CSOCK_NAME")
    assert session("run", "--", *show) == session("run", "--from", "virtual:", "--", *show) == path

    ended = process.stop(signal.SIGTERM)
    assert ended.code == 0
    assert ended.err == ""
    assert list(session.runtime.iterdir()) == []


def test_two_attachments_of_the_same_readers_have_one_agent_and_show_it_once(session: Session, tmp_path: Path) -> None:
    session.attach("virtual:")
    session.attach("virtual:", "--socket", str(tmp_path / "other"))
    first, second = json.loads(session("status", "--json"))
    assert first["agent"] == second["agent"] != 0
    (reader,) = first["readers"]
    assert second["readers"] == [reader]
    shown = session("status")
    assert shown.count(reader["reader"]) == 1
    assert f"(process {first['pid']}, readers from the agent, process {first['agent']})" in shown
    assert "its readers are shown above" in shown


def test_run_attaches_only_as_long_as_the_command_runs(session: Session) -> None:
    script = f"test -S $PCSCLITE_CSOCK_NAME && {shlex.join(session.words('status', '--json'))}"
    (status,) = json.loads(session("run", "--from", "virtual:", "sh", "-c", script))
    assert status["links"][0]["host"] == "virtual:"
    assert list(session.runtime.iterdir()) == []


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_commands_exit_code_is_ours(session: Session, script: str, code: int) -> None:
    words = session.words("run", "--from", "virtual:", "--", "sh", "-c", script)
    done = run(words, session.env)
    assert done.code == code
    assert done.err == ""


def test_a_signal_reaches_the_command_and_all_is_cleaned_up(session: Session) -> None:
    script = "trap 'echo told; exit 5' TERM; echo running; while :; do sleep 0.01; done"
    process = session.start("run", "--from", "virtual:", "--", "sh", "-c", script)
    process.wait_for("^running$")
    ended = process.stop(signal.SIGTERM)
    assert ended.code == 5
    assert "told" in ended.out
    assert list(session.runtime.iterdir()) == []


def test_options_after_the_command_are_the_commands(session: Session) -> None:
    assert session("run", "--from", "virtual:", "echo", "-v", "--from", "x") == "-v --from x\n"


def test_two_attachments_must_be_told_apart(session: Session, tmp_path: Path) -> None:
    session.attach("virtual:")
    other, path = session.attach("virtual:", "--socket", str(tmp_path / "other.sock"))
    done = run(session.words("env"), session.env)
    assert done.code == 41
    assert "several hosts are attached" in done.err
    other.stop()
    assert path not in session("env")


def test_a_second_attach_to_the_same_host_is_refused_while_the_first_lives(session: Session) -> None:
    first, path = session.attach("virtual:")
    refused = run(session.words("attach", "virtual:"), session.env)
    assert (refused.code, refused.err) == (
        42,
        f"error: virtual: is already attached (process {first.pid})\n"
        f"hint: in the shell of your programs: export PCSCLITE_CSOCK_NAME={path}\n",
    )
    other = run(session.words("attach", "vpicc:unix:/tmp/nobody", "--socket", path), session.env)
    assert (other.code, f"{path} is in use by" in other.err) == (11, True)
    first.kill()
    second, again = session.attach("virtual:")
    assert again == path
    second.stop()
    assert list(session.runtime.iterdir()) == []


def test_a_second_attach_to_a_pool_says_when_it_has_got_other_members(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "cardferry" / "config.toml"
    file.parent.mkdir()
    file.write_text('[pool.signing]\nmembers = ["virtual:"]\n')
    session.env["XDG_CONFIG_HOME"] = str(tmp_path)
    first, path = session.attach("pool:signing")
    words = session.words("attach", "pool:signing")
    assert "hint: in the shell of your programs: " in run(words, session.env).err
    file.write_text('[pool.signing]\nmembers = ["virtual:", "vpicc:unix:/tmp/nobody"]\n')
    refused = run(words, session.env)
    assert (refused.code, refused.err) == (
        42,
        f"error: pool:signing is already attached (process {first.pid}), with other members than the configuration "
        "lists now\nhint: end that process, and attach it again\n",
    )
    first.stop()
    second, again = session.attach("pool:signing")
    assert again == path
    second.stop()


def test_a_group_that_does_not_exist_is_said_so(session: Session) -> None:
    for options in ((), ("--mode", "0660")):
        done = run(session.words("attach", "virtual:", "--group", "no-such-group", *options), session.env)
        assert done.code == 10
        assert done.err.startswith("error: there is no group 'no-such-group'\n")


@pytest.mark.parametrize("encoding", [pytest.param("latin1", marks=pytest.mark.slow), "ascii", "utf-8"])
def test_each_encoding_has_signs_for_everything(session: Session, encoding: str) -> None:
    session.attach("virtual:")
    for words in (("doctor", "virtual:"), ("status",), ("readers",)):
        done = run(session.words(*words), {**session.env, "PYTHONIOENCODING": encoding})
        assert done.err == "", done
        assert "\\u" not in done.out, done
    done = run(session.words("doctor"), {**session.env, "PYTHONIOENCODING": encoding})
    assert ("✓" in done.out, "+ library" in done.out) == ((True, False) if encoding == "utf-8" else (False, True))


def test_the_socket_gets_the_wanted_rights(session: Session, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    _, path = session.attach("virtual:", "--socket", str(tmp_path / "x.sock"), "--mode", "0666")
    assert Path(path).stat().st_mode & 0o777 == 0o666


def test_ready_comes_only_when_programs_can_use_it(session: Session) -> None:
    """The line is out: at this moment the card is there."""
    _, path = session.attach("virtual:")
    (row,) = json.loads(session("readers", "--json"))
    assert row["atr"]
    assert row["sockets"] == [path]


def test_the_traffic_is_told_without_its_secrets(session: Session) -> None:
    process, path = session.attach("virtual:", "-vv")
    verify = "00200080083132333435 36ffff".replace(" ", "")
    client = Path(__file__).parents[1] / "lab" / "pcsc_client.py"
    select = "00a4040005a000000308"
    name = json.loads(session("readers", "--json"))[0]["reader"]
    words = ["/usr/bin/python3", str(client), "apdu", name, select, verify]
    subprocess.run(words, env={**session.env, "PCSCLITE_CSOCK_NAME": path}, capture_output=True, check=False)
    process.wait_for("VERIFY", stream="err")
    told = process.stop().err
    assert "SELECT PIV" in told
    assert "313233343536" not in told
    assert "123456" not in told


def test_the_card_dials_in_at_a_socket_of_this_account_alone(session: Session, tmp_path: Path) -> None:
    place = tmp_path / "card"
    attach, _ = session.attach("--socket", str(tmp_path / "s"), f"vpicc:unix:{place}")
    card = session.start("card", "--dial", f"unix:{place}")
    card.wait_for(f"^ready in the reader at unix:{place}$")
    (row,) = json.loads(session("readers", "--json"))
    assert row["hosts"] == [f"vpicc:unix:{place}"]
    assert row["atr"].startswith("3b")
    assert attach.stop().code == 0
    assert card.wait().code == 0
    assert not place.exists()


def test_the_card_finds_nobody_at_a_socket(session: Session, tmp_path: Path) -> None:
    ended = run(session.words("card", "--dial", f"unix:{tmp_path / 'nobody'}"), session.env)
    assert ended.code == 51
    assert f"error: no virtual reader answers at {tmp_path / 'nobody'}: " in ended.err


def test_a_command_that_is_run_may_leave_a_core_as_before(session: Session) -> None:
    look = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"]
    wanted = " ".join(map(str, resource.getrlimit(resource.RLIMIT_CORE))) + "\n"
    assert session("run", "--from", "virtual:", "--", *look) == wanted
    session.attach("virtual:")
    assert session("run", "--", *look) == wanted
