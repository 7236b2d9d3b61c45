"""The guard in real shells, on this computer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.text import shown
from cardferry.transports.lines import MAX_LINE, LineSplitter
from cardferry.transports.ssh import guard
from tests.other_user import SOMEBODY, needs_root
from tests.transports.ssh.guards import SHELLS, LocalGuard, installed

NewGuard = Callable[..., LocalGuard]


@pytest.fixture
def new_guard(tmp_path: Path) -> Iterator[NewGuard]:
    made: list[LocalGuard] = []

    def make(**arguments: object) -> LocalGuard:
        made.append(LocalGuard(tmp_path, **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def listening(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.listen()
    return one


@pytest.fixture(params=installed(SHELLS))
def sh(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("login", installed(("sh", "bash", "dash", "zsh", "fish", "tcsh", "mksh")))
def test_the_bootstrap_works_in_every_login_shell(new_guard: NewGuard, login: str) -> None:
    assert new_guard(login=login).facts.uid == os.getuid()


def test_the_facts(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    facts = new_guard(sh=sh, env={"XDG_RUNTIME_DIR": str(tmp_path)}).facts
    assert facts.uid == os.getuid()
    assert facts.session == os.getpid()
    assert facts.system == os.uname().sysname
    assert facts.temporary == str(tmp_path)
    assert facts.runtime == str(tmp_path)
    assert facts.terminal


def test_a_session_without_a_terminal_is_known(new_guard: NewGuard, sh: str) -> None:
    one = new_guard(sh=sh, terminal=False)
    assert not one.facts.terminal
    assert one.ask("look", "/").values["kind"] == "other"


def test_a_pcscd_socket_is_reported_only_if_it_is_a_socket(new_guard: NewGuard, tmp_path: Path) -> None:
    path = tmp_path / "pcscd.comm"
    path.touch()
    assert new_guard(env={"PCSCLITE_CSOCK_NAME": str(path)}).facts.pcscd != str(path)
    path.unlink()
    with closing(listening(path)):
        assert new_guard(env={"PCSCLITE_CSOCK_NAME": str(path)}).facts.pcscd == str(path)


def test_what_profile_scripts_print_is_passed_over(new_guard: NewGuard, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy"
    noisy.write_text('#!/bin/sh\nprintf "Welcome\\nno newline"\nexec sh "$@"\n')
    noisy.chmod(0o755)
    assert new_guard(login=str(noisy)).facts.uid == os.getuid()


def test_looking_at_what_is_there(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    names = ("nothing", "file", "link", "no/folder")
    kinds = [one.ask("look", str(tmp_path / name)).values["kind"] for name in names]
    assert kinds == ["none", "other", "other", "no-folder"]


def test_a_path_with_blanks_and_quotes(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    path = tmp_path / "a b'c\"d$HOME\\e;*"
    one = new_guard(sh=sh)
    with closing(listening(path)):
        seen = one.ask("look", str(path))
    assert seen.values["kind"] == "socket"
    assert seen.values["listening"] == "yes"


def test_live_and_dead_sockets_are_told_apart_by_the_kernel(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    path = tmp_path / "s"
    server = listening(path)
    assert one.ask("look", str(path)).values["listening"] == "yes"
    server.close()
    assert one.ask("look", str(path)).values["listening"] == "no"


def test_who_listens_is_named(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(listening(path)):
        assert f"(pid {os.getpid()})" in new_guard(sh=sh).ask("holder", str(path)).values["holder"]


def test_a_folder_of_our_own_is_made_private(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    path = tmp_path / "cardferry"
    one = new_guard(sh=sh)
    assert one.ask("folder", str(path)).failure == ""
    assert path.stat().st_mode & 0o777 == 0o700
    assert one.ask("folder", str(path)).failure == ""


def test_a_folder_that_is_a_symbolic_link_is_refused(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert "symbolic link" in new_guard(sh=sh).ask("folder", str(tmp_path / "link")).failure


def test_a_folder_that_others_can_write_in_is_refused(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o1777)
    assert "others can write" in new_guard(sh=sh).ask("folder", str(path)).failure


@pytest.mark.skipif(os.getuid() != 0, reason="not run, needs root: a folder of somebody else")
def test_a_folder_of_somebody_else_is_refused(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    assert "somebody else" in new_guard(sh=sh).ask("folder", str(path)).failure


def bound(one: LocalGuard, folder: Path) -> socket.socket:
    """The socket that sshd binds, in a folder that the guard has made for it."""
    assert one.ask("private", str(folder / ".cf-1")).failure == ""
    return listening(folder / ".cf-1" / "s")


def publish(one: LocalGuard, path: Path, mode: str = "600", group: str = "") -> str:
    return one.ask("publish", str(path), mode, group, "cardferry of computer1").failure


def test_a_bound_socket_gets_its_public_name_and_rights(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    path = tmp_path / "computer1.sock"
    with closing(bound(one, tmp_path)):
        assert publish(one, path, "660") == ""
        assert not (tmp_path / ".cf-1").exists()
        assert path.stat().st_mode & 0o777 == 0o660
        socket.socket(socket.AF_UNIX).connect(str(path))
        seen = one.ask("look", str(path)).values
    assert seen["token"] == one.mark
    assert seen["name"] == "cardferry of computer1"
    assert seen["running"] == "yes"
    assert seen["listening"] == "yes"


def test_an_old_sshd_that_ends_late_takes_nothing_away(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    """What sshd removes is the name it bound; ours is another one."""
    one = new_guard(sh=sh)
    path = tmp_path / "computer1.sock"
    with closing(bound(one, tmp_path)):
        publish(one, path)
        (tmp_path / ".cf-1" / "s").unlink(missing_ok=True)
        assert path.is_socket()


def test_a_public_name_that_was_taken_meanwhile_is_left_alone(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    path = tmp_path / "computer1.sock"
    with closing(bound(one, tmp_path)), closing(listening(path)):
        before = path.stat().st_ino
        assert "took the place" in publish(one, path)
        assert path.stat().st_ino == before
        assert not (tmp_path / ".cf-1").exists()
        one.send(guard.QUIT)
        one.process.wait(10)
        assert path.stat().st_ino == before


def test_a_group_that_does_not_exist_is_refused(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    with closing(bound(one, tmp_path)):
        assert "there is no group nosuchgroup" in publish(one, tmp_path / "s", "660", "nosuchgroup")
        assert not (tmp_path / ".cf-1").exists()


def unsafe(one: LocalGuard, path: Path) -> str:
    return one.ask("look", str(path)).values.get("unsafe", "")


def test_a_folder_in_which_others_could_swap_the_socket_is_told(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    """As `check_trusted` does here: others may write in none on the way, unless it is sticky, like /tmp."""
    one = new_guard(sh=sh)
    (tmp_path / "a b" / "mine").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a b/mine")
    for mode in (0o700, 0o755, 0o1777):
        (tmp_path / "a b").chmod(mode)
        assert unsafe(one, tmp_path / "a b" / "s") == ""
    for mode in (0o775, 0o702, 0o2770):
        (tmp_path / "a b").chmod(mode)
        for path in ("a b/s", "a b/mine/s", "link/s"):
            assert unsafe(one, tmp_path / path) == f"others can write in {tmp_path / 'a b'}"
        assert "others can write in" in one.ask("folder", str(tmp_path / "a b" / "mine")).failure


@needs_root
def test_a_folder_or_a_link_of_somebody_else_is_told(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    for name in ("theirs", "link"):
        os.chown(tmp_path / name, SOMEBODY, SOMEBODY, follow_symlinks=False)
        assert unsafe(one, tmp_path / name / "s").startswith(str(tmp_path / name))
        assert unsafe(one, tmp_path / name / "s").endswith("belongs to somebody else")


@needs_root
def test_the_folder_in_which_sshd_binds_is_nobody_elses(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    before = os.umask(0)
    try:
        with closing(bound(one, tmp_path)):
            assert (tmp_path / ".cf-1").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert "may not make a folder" in one.ask("private", str(tmp_path)).failure


def test_rights_do_not_follow_a_link_that_stands_where_sshd_should_have_bound(
    new_guard: NewGuard, sh: str, tmp_path: Path
) -> None:
    one = new_guard(sh=sh)
    (tmp_path / "precious").touch(0o600)
    with closing(listening(tmp_path / "other")):
        for target in ("precious", "other"):
            assert one.ask("private", str(tmp_path / ".cf-1")).failure == ""
            before = (tmp_path / target).lstat()
            (tmp_path / ".cf-1" / "s").symlink_to(tmp_path / target)
            assert "made no socket" in publish(one, tmp_path / "s", "666", str(os.getgid()))
            assert (tmp_path / target).lstat() == before


@pytest.mark.parametrize("what", ["link to a folder", "folder"])
def test_the_public_name_leads_nowhere_else(new_guard: NewGuard, sh: str, tmp_path: Path, what: str) -> None:
    """``ln`` and ``mv`` would put the socket inside."""
    one = new_guard(sh=sh)
    (tmp_path / "elsewhere").mkdir()
    if what == "folder":
        (tmp_path / "computer1.sock").mkdir()
    else:
        (tmp_path / "computer1.sock").symlink_to("elsewhere")
    with closing(bound(one, tmp_path)):
        assert "took the place" in publish(one, tmp_path / "computer1.sock")
    assert list((tmp_path / "computer1.sock").iterdir()) == []
    assert not (tmp_path / ".cf-1").exists()


def test_without_a_record_there_is_no_socket_that_nobody_would_take_away(
    new_guard: NewGuard, sh: str, tmp_path: Path
) -> None:
    one = new_guard(sh=sh)
    (tmp_path / ".computer1.sock.owner").mkdir()
    with closing(bound(one, tmp_path)):
        assert "something else is at" in publish(one, tmp_path / "computer1.sock")
    assert [path.name for path in tmp_path.glob("*.sock")] == []


@pytest.mark.parametrize("end", ["quit", "hang-up"])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_socket_goes_when_the_guard_goes(
    new_guard: NewGuard, sh: str, tmp_path: Path, end: str, terminal: bool
) -> None:
    one = new_guard(sh=sh, terminal=terminal)
    path = tmp_path / "computer1.sock"
    with closing(bound(one, tmp_path)):
        publish(one, path)
        if end == "quit":
            one.send(guard.QUIT)
        else:
            one.hang_up()
        one.process.wait(10)
        assert list(tmp_path.glob("*.sock")) == []
        assert list(tmp_path.glob(".*.owner")) == []


def test_a_socket_that_somebody_put_in_our_place_stays(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    path = tmp_path / "computer1.sock"
    with closing(bound(one, tmp_path)):
        publish(one, path)
        path.unlink()
        with closing(listening(path)):
            one.send(guard.QUIT)
            one.process.wait(10)
            assert path.is_socket()


def test_a_dead_socket_is_removed_and_nothing_else_is(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    one = new_guard(sh=sh)
    listening(tmp_path / "dead").close()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "dead")
    assert "cannot be removed" in one.ask("remove", str(tmp_path / "file")).failure
    assert "cannot be removed" in one.ask("remove", str(tmp_path / "link")).failure
    assert one.ask("remove", str(tmp_path / "dead")).failure == ""
    assert not (tmp_path / "dead").exists()
    assert (tmp_path / "file").exists()


def test_an_evicted_guard_and_its_session_end(new_guard: NewGuard, sh: str, tmp_path: Path) -> None:
    """The old session is a process that stands for its sshd: the guard's parent."""
    script = (
        "import sys, pathlib; sys.path.insert(0, '.'); from tests.transports.ssh.guards import LocalGuard\n"
        f"one = LocalGuard(pathlib.Path({str(tmp_path)!r}), sh={sh!r})\n"
        f"one.ask('private', {str(tmp_path / '.cf-1')!r})\n"
        f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(tmp_path / '.cf-1' / 's')!r}); s.listen()\n"
        f"one.ask('publish', {str(tmp_path / 's')!r}, '600', '', 'the old one')\n"
        "print(one.process.pid, flush=True); sys.stdin.read()"
    )
    old = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with old:
        assert old.stdout is not None
        old_guard = int(old.stdout.readline())
        one = new_guard(sh=sh)
        assert one.ask("look", str(tmp_path / "s")).values["running"] == "yes"
        assert one.ask("evict", str(tmp_path / "s")).failure == ""
        assert old.wait(10) == -signal.SIGTERM
    assert not (tmp_path / "s").exists()
    assert one.ask("look", str(tmp_path / "s")).values["kind"] == "none"
    assert not runs(old_guard)


def runs(pid: int) -> bool:
    """Whether a process does anything: one whose parent has not taken notice of its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_owner_file_never_makes_us_end_a_process_that_is_no_guard(
    new_guard: NewGuard, sh: str, tmp_path: Path
) -> None:
    """Process ids come round: the number in an old record may be anybody's now."""
    listening(tmp_path / "s").close()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = f"cardferry-0123456789abcdef\n{bystander.pid}\n{bystander.pid}\n2026-01-01 10:00\nsomebody\n"
        (tmp_path / ".s.owner").write_text(record)
        one = new_guard(sh=sh)
        assert "running" not in one.ask("look", str(tmp_path / "s")).values
        assert one.ask("evict", str(tmp_path / "s")).failure == ""
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.slow
def test_a_guard_without_heartbeats_ends_its_session(tmp_path: Path, sh: str) -> None:
    """The guard's parent plays its sshd: it goes 6 to 9 s after the last heartbeat, not while they come."""
    script = (
        "import sys, time, pathlib; sys.path.insert(0, '.'); from tests.transports.ssh.guards import LocalGuard\n"
        "from cardferry.transports.ssh.guard import HEARTBEAT, HEARTBEAT_INTERVAL\n"
        f"one = LocalGuard(pathlib.Path({str(tmp_path)!r}), sh={sh!r})\n"
        "for _ in range(6):\n    one.send(HEARTBEAT); time.sleep(HEARTBEAT_INTERVAL)\n"
        "print(time.monotonic(), flush=True); time.sleep(60)"
    )
    session = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with session:
        assert session.stdout is not None
        last_heartbeat = float(session.stdout.readline()) - guard.HEARTBEAT_INTERVAL
        assert session.wait(20) == -signal.SIGTERM
    assert 5.5 < time.monotonic() - last_heartbeat < 10


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"], codec="utf-8"), max_size=20)), st.data())
def test_lines_come_out_whole_however_they_are_split(lines: list[str], data: st.DataObject) -> None:
    stream = "".join(line + "\n" for line in lines).encode()
    splitter = LineSplitter()
    seen: list[str] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        seen += splitter.feed(stream[:size])
        stream = stream[size:]
    assert seen == lines


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert list(splitter.feed(b"x" * 1000)) == []
    assert len(splitter._pending) <= MAX_LINE
    assert list(splitter.feed(b"end\nnext\n")) == ["next"]


def test_lines_are_what_the_other_side_has_said() -> None:
    """Nothing is replaced: it is escaped where it is shown, and a path with such characters is refused as it is."""
    (line,) = LineSplitter().feed(b"\x1b[2J\x07 caf\xc3\xa9 \xff\xe2\x80\xae\r\n")
    assert line == "\x1b[2J\x07 caf\u00e9 \udcff\u202e"
    assert shown(line) == r"\x1b[2J\x07 caf\u00e9 \udcff\u202e".replace(r"\u00e9", "\u00e9")


def test_a_reply_does_not_grow_with_what_it_was_not_asked_for() -> None:
    reply = guard.Reply()
    for number in range(1000):
        reply.learn(f"key{number}", "value")
    reply.learn("kind", "socket")
    assert reply.values == {"kind": "socket"}


def test_unknown_facts_are_passed_over() -> None:
    facts = guard.Facts()
    facts.learn("uid", "not a number")
    facts.learn("weather", "fine")
    facts.learn("installed", "everything")
    assert facts == guard.Facts()
