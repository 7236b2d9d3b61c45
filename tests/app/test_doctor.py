"""The doctor's judgements that need no real part: version pairs, options, the environment, readers; and its manners."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.app import doctor
from cardferry.app.commands.variable import VARIABLE
from cardferry.app.doctor import Finding, State, here, levels, programs, reading
from cardferry.app.doctor.examine import guarded
from cardferry.app.doctor.finding import note, ok, problem
from cardferry.app.doctor.levels import Pair, library_level, pair
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.cli.main import main
from cardferry.pcsc.constants import CardState
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.transports.ssh import SshCommand
from tests.frontends.served import EchoCard, served

# --- version pairs, as measured with the releases themselves

LEVEL = {
    "1.8.3": 2, "1.8.8": 2, "1.8.23": 3, "1.8.26": 4, "1.9.9": 4, "2.0.3": 4, "2.3.3": 5, "2.4.1": 5, "2.5.1": 6,
}  # fmt: skip
CLIENTS = ("1.8.3", "1.8.8", "1.8.23", "1.9.9", "2.3.3", "2.4.1", "2.5.1")
#: What a full card flow gave: it works, * not when the first call is a wait, or the error, or worse.
MEASURED = {
    "1.8.3": ("OK", "hangs", "1D", "1D", "1D", "1D", "1D"),
    "1.8.8": ("09", "OK", "1D", "1D", "1D", "1D", "1D"),
    "1.8.23": ("1D", "1D", "OK", "1D", "1D", "1D", "1D"),
    "1.8.26": ("1E", "1E", "1E", "OK", "1E", "OK", "OK*"),
    "1.9.9": ("1E", "1E", "1E", "OK", "1E", "OK", "OK*"),
    "2.0.3": ("1E", "1E", "1E", "OK", "1E", "OK", "OK*"),
    "2.3.3": ("1E", "1E", "1E", "1E", "OK", "OK", "OK*"),
    "2.4.1": ("1E", "1E", "1E", "OK", "OK", "OK", "OK*"),
    "2.5.1": ("1E", "1E", "1E", "OK", "OK", "OK", "OK"),
}
CELLS = [
    (server, client, result)
    for server, results in MEASURED.items()
    for client, result in zip(CLIENTS, results, strict=True)
]
WORD = {"OK": Pair.WORKS, "OK*": Pair.STUMBLES}


@pytest.mark.parametrize(("server", "client", "result"), CELLS)
def test_what_is_said_of_a_pair_is_what_was_measured(server: str, client: str, result: str) -> None:
    said = pair(LEVEL[client], LEVEL[server])
    assert said in (WORD.get(result, Pair.REFUSED), Pair.DEPENDS)


@pytest.mark.parametrize("server", LEVEL)
@pytest.mark.parametrize("client", LEVEL)
def test_depends_is_said_only_where_releases_of_these_levels_differ(server: str, client: str) -> None:
    results = {result for s, c, result in CELLS if (LEVEL[s], LEVEL[c]) == (LEVEL[server], LEVEL[client])}
    assert (pair(LEVEL[client], LEVEL[server]) is Pair.DEPENDS) == (len(results) > 1), results


def takes(server: str, level: int) -> bool:
    """Whether a server takes that level at once: 2.4.1 and 2.5 are tolerant."""
    if server == "2.4.1":
        return level >= 4
    return 4 <= level <= 6 if server == "2.5.1" else level == LEVEL[server]


@pytest.mark.parametrize(("server", "client", "result"), CELLS)
def test_a_server_that_was_asked_leaves_less_open(server: str, client: str, result: str) -> None:
    said = pair(LEVEL[client], LEVEL[server], takes(server, LEVEL[client]))
    if LEVEL[client] == LEVEL[server] == 2 or (LEVEL[client], LEVEL[server]) == (5, 4):
        assert said is Pair.DEPENDS
    elif (client, server) == ("2.5.1", "2.4.1"):
        assert said in (Pair.WORKS, Pair.STUMBLES)
    else:
        assert said is WORD.get(result, Pair.REFUSED)


def test_a_pair_that_works_is_not_mentioned() -> None:
    assert reading.about_levels("x", Path("/s"), 4, 4, accepted=True, direct=True) == []


def test_refusal_is_a_problem_only_for_programs_that_use_that_socket() -> None:
    (through,) = reading.about_levels("x", Path("/s"), 4, 5, accepted=False, direct=False)
    assert through.state is State.NOTE
    assert "pcscd there speaks 4:5 (pcsc-lite 2.3.0 to 2.4.1)" in through.says
    assert "they refuse each other" in through.says
    (direct,) = reading.about_levels("x", Path("/s"), 4, 5, accepted=False, direct=True)
    assert direct.state is State.PROBLEM
    assert direct.hint.endswith("cardferry attach pcscd:/s")


# --- the library's level

HELLO = """
import os, socket, time
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["PCSCLITE_CSOCK_NAME"])
s.send(bytes.fromhex("0c000000 11000000 04000000 05000000 00000000"))
s.recv(1)
"""


@pytest.mark.parametrize(("program", "level"), [(HELLO, 5), ("raise OSError('no library')", None)])
async def test_the_level_is_what_the_library_says(
    program: str, level: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "_ASK", program)
    assert await library_level() == level


async def test_a_library_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    monkeypatch.setattr(
        levels, "_ASK", f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); os.read(os.pipe()[0], 1)"
    )
    monkeypatch.setattr(levels, "_PATIENCE", 0.5)
    with pytest.raises(TimeoutError):
        await library_level()
    assert not (Path("/proc") / (pid.read_text() or "none")).exists()


def test_no_library_is_a_problem_where_programs_use_cards() -> None:
    (missing,) = here.library(None, needed=True)
    assert (missing.state, missing.hint) == (State.PROBLEM, "apt install libpcsclite1")
    assert [one.state for one in here.library(None, needed=False)] == [State.NOTE]
    assert [one.state for one in here.library(9, needed=True)] == [State.OK]


# --- programs


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ("disable-ccid:8:2:do not use the internal CCID driver:0:0::::\n", True),
        ("disable-ccid:8:2:do not use the internal CCID driver:0:0::::1\n", False),
        ("disable-ccid:8:2:do not use the internal CCID driver:0:0::::0\n", True),
        ("disable-ccid:8:2:short line\n", True),
        ("pcsc-driver:24:1:use NAME as PC/SC driver:1:1:NAME:::1\n", False),
        ("", False),
    ],
)
def test_scdaemons_own_driver_is_seen_in_what_gpgconf_lists(options: str, own: bool) -> None:
    assert programs.uses_own_driver(options) is own


@pytest.mark.parametrize(
    ("version", "always"),
    [("1.9.9-2", True), ("2.0.3-1", True), ("2.1.0-1", False), ("2.10.0-1", False), ("1:1.9.9", True), ("", False)],
)
def test_libraries_before_2_1_take_the_variable_from_everybody(version: str, always: bool) -> None:
    assert programs.heeds_always(version) is always


@pytest.mark.parametrize(("mode", "rights"), [(0o755, False), (0o4755, True), (0o2755, True)])
def test_setuid_and_setgid_programs_have_rights(tmp_path: Path, mode: int, rights: bool) -> None:
    program = tmp_path / "program"
    program.touch()
    program.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(program)
    assert programs.has_rights(program) is rights
    assert programs.has_rights(link) is rights


def test_programs_with_capabilities_have_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listxattr", lambda path: ["security.capability"])
    assert programs.has_rights(tmp_path)
    assert not programs.has_rights(tmp_path / "gone")


async def test_programs_that_ignore_the_variable_are_named_from_2_1_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode, text in (
        ("dpkg-query", 0o755, "echo 2.3.3-1"), ("sudo", 0o4755, ""), ("opensc-tool", 0o755, ""),
    ):  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(mode)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(programs, "_USERS", ("sudo", "opensc-tool"))
    (found,) = [finding async for finding in programs.privileged()]
    assert found.state is State.NOTE
    assert found.says.startswith(f"{tmp_path}/sudo: ")
    assert "/run/pcscd/pcscd.comm" in found.hint
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\necho 1.9.9-2\n")
    assert [finding async for finding in programs.privileged()] == []


# --- the environment


def attached_at(path: str) -> list[Running]:
    links = [Link("laptop", "up", path)]
    return [Running("host", 1, 0.0, [Link("x", "up", "/agent")], 0, []), Running("attach", 2, 0.0, links, 0, [])]


async def found_in(environ: dict[str, str], running: list[Running] | None = None) -> list[Finding]:
    return [finding async for finding in here.environment(running or [], environ, None)]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="d") as folder:  # pytest's own are too long for sockets
        yield Path(folder)


async def test_without_the_variable_and_without_readers_nothing_is_wrong() -> None:
    assert [finding.state for finding in await found_in({})] == [State.OK]


async def test_a_variable_that_is_not_exported_is_a_problem_when_readers_are_attached() -> None:
    (found,) = await found_in({}, attached_at("/run/my socket"))
    assert found.state is State.PROBLEM
    assert "not exported" in found.says
    assert found.hint.startswith(f"export {VARIABLE}='/run/my socket'")


async def test_an_agent_for_guests_is_nothing_to_export() -> None:
    assert [finding.state for finding in await found_in({}, attached_at("/x")[:1])] == [State.OK]


async def test_values_that_cannot_work(short_folder: Path) -> None:
    letter = short_folder / "letter"
    letter.touch()
    stale = short_folder / "stale"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    for value, says, hint in (
        ("/" + "x" * 107, "108 bytes, and the library cuts it after 107", "shorter path"),
        ("@card", "abstract socket", "cardferry attach HOST"),
        ("card.sock", "not absolute", "whole path"),
        (str(short_folder / "none"), "does not exist", "unset"),
        (str(letter), "not a socket", "unset"),
        (str(stale), "stale socket on which nobody listens", "unset"),
    ):
        (found,) = await found_in({VARIABLE: value})
        assert (found.state, found.probe) == (State.PROBLEM, "environment")
        assert says in found.says
        assert hint in found.hint
    (found,) = await found_in({VARIABLE: str(stale)}, attached_at("/run/alive"))
    assert f"export {VARIABLE}=/run/alive" in found.hint


@pytest.mark.parametrize(("closes", "says"), [(True, "turned us away"), (False, "does not answer")])
async def test_a_socket_that_leads_nowhere_is_a_problem(
    closes: bool, says: str, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = short_folder / "socket"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8) if closes else await reader.read()
        writer.close()

    if not closes:
        monkeypatch.setattr("cardferry.transports.probe.ask_version.__defaults__", (0.2,))
    async with await asyncio.start_unix_server(serve, path):
        (found,) = await found_in({VARIABLE: str(path)})
    assert found.state is State.PROBLEM
    assert says in found.says
    assert "look over there" in found.hint


def test_a_runtime_folder_that_is_too_long_for_sockets_is_a_problem() -> None:
    assert list(here.paths(Path("/run/user/1000/cardferry"), SshHost("user@" + "h" * 60))) == []
    (found,) = here.paths(Path("/run/" + "x" * 70), SshHost("host"))
    assert found.state is State.PROBLEM
    assert "107 is the most" in found.says
    assert "XDG_RUNTIME_DIR" in found.hint


# --- readers

ATR = bytes.fromhex("3B80800101")
PRESENT = CardState.PRESENT | CardState.POWERED


@pytest.mark.parametrize(
    ("states", "says", "hint"),
    [
        ([], "sees no reader", "libccid"),
        ([ReaderState("A")], "there is no card in any reader", "put one in"),
        ([ReaderState("A", state=CardState.PRESENT | CardState.SWALLOWED)], "A: the card does not answer", "clean it"),
        ([ReaderState("A", state=CardState.UNKNOWN)], "A: the reader is in error", "unplug"),
    ],
)
def test_what_keeps_a_card_away_is_a_problem(states: list[ReaderState], says: str, hint: str) -> None:
    problems = [one for one in reading.about_readers("x", states, needed=True) if one.state is State.PROBLEM]
    assert any(says in one.says and hint in one.hint for one in problems), problems


def test_an_empty_computer_is_no_problem_when_nobody_needs_its_readers() -> None:
    for states in ([], [ReaderState("A")]):
        assert all(one.state is State.NOTE for one in reading.about_readers("x", states, needed=False))


def test_one_card_is_enough_and_whoever_has_it_alone_is_named() -> None:
    states = [ReaderState("A"), ReaderState("B", state=PRESENT, atr=ATR, sharing=-1)]
    findings = reading.about_readers("x", states, needed=True)
    assert [one.state for one in findings] == [State.NOTE, State.OK, State.NOTE]
    assert "B: a card with ATR 3b80800101" in findings[1].says
    assert "exclusive" in findings[2].says
    assert "pcsc-shared" in findings[2].hint


def record(name: str = "", state: int = 0, sharing: int = 0, atr: bytes = b"", atr_length: int = 34) -> bytes:
    """``READER_STATE`` of ``eventhandler.h``, 184 bytes; an empty slot says that it is still initialising (34)."""
    return struct.pack("=128sIIi33s3xII", name.encode(), 0, state, sharing, atr, atr_length, 0)


@pytest.mark.parametrize(
    ("first", "state", "says"),
    [
        (record("A 00 00", 0x0C, atr_length=0), State.PROBLEM, "A 00 00: the card does not answer"),
        (record("A 00 00", 0x01, atr_length=0), State.PROBLEM, "A 00 00: the reader is in error"),
        (record("A 00 00", 0x34, -1, ATR, 5), State.NOTE, "A 00 00: a program has the card for itself alone"),
        (record("A 00 00", 0x02, atr_length=0), State.PROBLEM, "there is no card in any reader"),
        (record(), State.PROBLEM, "it sees no reader"),
    ],
    ids=["mute", "error", "exclusive", "empty", "none"],
)
async def test_what_pcscd_says_of_its_readers(first: bytes, state: State, says: str, short_folder: Path) -> None:
    version, reader_states = struct.pack("=iiI", 4, 4, 0), first + record() * 15

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.read(8):
            size, command = struct.unpack("=II", header)
            await reader.readexactly(size)
            writer.write({0x11: version, 0x12: reader_states}[command])
        writer.close()

    path = short_folder / "pcscd"
    async with await asyncio.start_unix_server(serve, path):
        findings = [finding async for finding in reading.look("x", path, needed=True, library=4, direct=True)]
    assert any(one.state is state and says in one.says for one in findings), findings


async def test_a_card_that_was_turned_over_and_a_reader_that_was_plugged_in_again_are_well(short_folder: Path) -> None:
    async def found() -> list[tuple[State, str]]:
        findings = [finding async for finding in reading.look("x", pcscd.path, needed=True)]
        return [(one.state, one.hint) for one in findings]

    async with served(short_folder, ["A"]) as pcscd:
        (reader,) = pcscd.readers
        upside_down = EchoCard()
        upside_down.atr = b""
        reader.insert(upside_down)
        assert await found() == [(State.PROBLEM, "turn it over, clean it, push it in again")]
        reader.remove()
        reader.insert(EchoCard())
        assert await found() == [(State.OK, "")]
        assert pcscd.source._observer is not None
        pcscd.source._observer.reader_failed(reader)
        assert (State.PROBLEM, "unplug it and plug it in again") in await found()
        pcscd.source.remove_reader(reader)
        pcscd.source.add_reader("A").insert(EchoCard())
        assert await found() == [(State.OK, "")]


# --- manners


async def failing(error: BaseException) -> AsyncIterator[Finding]:
    yield ok("first", "fine")
    raise error


@pytest.mark.parametrize(
    ("error", "says", "hint"),
    [
        (UserError("it is broken", "mend it"), "it is broken", "mend it"),
        (PermissionError(13, "Permission denied"), "cannot look: [Errno 13] Permission denied", "as a user who may"),
        (TimeoutError(), "cannot look: TimeoutError", "try again later"),
        (ExceptionGroup("tasks", [UserError("deep down", "dig")]), "deep down", "dig"),
    ],
)
async def test_a_probe_that_fails_is_a_finding(error: Exception, says: str, hint: str) -> None:
    findings = [finding async for finding in guarded("second", failing(error))]
    assert findings[0] == ok("first", "fine")
    assert findings[1].state is State.PROBLEM
    assert (findings[1].probe, findings[1].says) == ("second", says)
    assert hint in findings[1].hint


async def test_a_probe_that_failed_is_made_again_later() -> None:
    outcomes = iter([OSError(23, "Too many open files in system"), None])

    async def look() -> AsyncIterator[Finding]:
        if (error := next(outcomes)) is not None:
            raise error
        yield ok("second", "fine")

    first, second = [[finding async for finding in guarded("second", look())] for _ in range(2)]
    assert (first[0].state, first[0].hint) == (State.PROBLEM, "try again later")
    assert second == [ok("second", "fine")]


async def test_a_bug_in_a_probe_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup):
        _ = [finding async for finding in guarded("x", failing(ExceptionGroup("tasks", [ValueError("bug")])))]


async def test_each_probe_goes_on_when_another_fails(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> AsyncIterator[Finding]:
        yield await failing_at_once()

    async def failing_at_once() -> Finding:
        raise UserError("it is broken", "mend it")

    async def no_library() -> int | None:
        raise TimeoutError

    monkeypatch.setattr(here, "own_pcscd", broken)
    monkeypatch.setattr(importlib.import_module("cardferry.app.doctor.examine"), "library_level", no_library)
    for name in ("privileged", "gnupg"):
        monkeypatch.setattr(programs, name, broken)
    (short_folder / "cardferry").touch()  # a file where our folder should be
    environ = {"XDG_RUNTIME_DIR": str(short_folder), VARIABLE: "@x"}
    findings = [finding async for finding in doctor.examine(SshHost("nowhere"), SshCommand(("false",)), environ)]
    probes = [finding.probe for finding in findings if finding.state is State.PROBLEM]
    assert probes == ["sockets", "library", "library", "pcscd here", "environment", "privileged programs", "gnupg"]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a", "fine")], 0),
        ([ok("a", "fine"), note("b", "mind", "this")], 0),
        ([problem("a", "broken", "mend it"), ok("b", "fine")], 1),
    ],
)
def test_the_exit_code_is_0_only_without_a_problem(
    findings: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def examine(*_: object) -> AsyncIterator[Finding]:
        for finding in findings:
            yield finding

    monkeypatch.setattr(doctor, "examine", examine)
    with pytest.raises(SystemExit) as exited:
        main(["doctor"])
    assert exited.value.code == code
    shown = capsys.readouterr().out
    for finding in findings:
        assert f"{finding.probe}: {finding.says}\n" in shown
        assert f"  hint: {finding.hint}\n" in shown or not finding.hint
    with pytest.raises(SystemExit) as exited:
        main(["doctor", "--json"])
    assert exited.value.code == code
    assert json.loads(capsys.readouterr().out) == [
        {"probe": one.probe, "state": one.state.value, "says": one.says, "hint": one.hint} for one in findings
    ]


def test_an_examination_that_is_interrupted_is_no_success() -> None:
    script = (
        "import os, signal\nfrom cardferry.app import doctor\nfrom cardferry.cli.main import main\n"
        "async def examine(*_):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import asyncio; await asyncio.Event().wait()\n"
        "    yield\n"
        "doctor.examine = examine\nmain(['doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (130, "")
