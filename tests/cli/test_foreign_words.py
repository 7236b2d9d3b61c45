"""Words of other computers, cards and programs do nothing to the terminal, whichever way they come to it.

Each test is a peer that says `EVIL` in every field that the protocol has for words, and reads what the commands print
that show them: at a terminal, byte for byte.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.link import Guest, GuestStatus, LinkServer
from cardferry.link.guest_session import Counters
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager import LocalManager
from cardferry.manager.status import SlotStatus, WaiterStatus
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.transports.base import Arrival
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.unix import UnixAddress
from cardferry.wire.link.frames import Kind, encode
from tests.callers import TESTER, somebody
from tests.cli.terminal import EVIL, SEEN, Commands, harmless
from tests.frontends.at_desk import MODERN, Program
from tests.frontends.served import served
from tests.lab.pcscd import accepts
from tests.link.cards import CountingCard
from tests.transports.taking import taking

PR_SET_NAME = 15
#: As long as a reader's name may be.
NAME = (EVIL + "A" * 127)[:120]
VERY_LONG = EVIL + "A" * 5000


@pytest.fixture
def cardferry() -> Iterator[Commands]:
    with TemporaryDirectory() as folder:  # pytest's own are too deep for ssh's socket
        yield Commands(Path(folder))


# --- what processes of ours tell each other: all that `status` shows, whatever protocol it came by


def filled(value: Any, word: str) -> Any:
    """The same value with that word in every field that is a string."""
    if isinstance(value, dict):
        return {key: one if key == "command" else filled(one, word) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, word) for one in value]
    return word if isinstance(value, str) else value


def everything() -> Running:
    """Something that runs, with something in every field."""
    near = GuestStatus("up", "h", "s", None, "e", 1, 0, 0, 0, 0, 0, 0, Counters())
    far = HostSessionStatus("p", "g", "s", True, None, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    slot = SlotStatus("r", "present", "3b", "T1", 1, 1, ["c"], "h", "p", 1.0, [WaiterStatus("w", "p", 1.0)])
    return Running("attach", 1, time.time(), [Link("h", "up", "/s", "link", near, far)], 1, [slot])


@pytest.mark.parametrize("word", [VERY_LONG, "\udcfcber\udcff" + EVIL])
async def test_each_field_of_what_runs(cardferry: Commands, word: str) -> None:
    told = msgspec.convert(filled(msgspec.to_builtins(everything()), word), type=Running)
    cardferry.folder.mkdir(mode=0o700)
    async with control.controllable(cardferry.folder, lambda: told):
        people = await cardferry.listings() + await cardferry("doctor")
        assert people.count(SEEN) > 10
        programs = json.loads(await cardferry.json())
        assert programs == [msgspec.to_builtins(told)]
        findings = json.loads(await cardferry("doctor", "--json"))
        assert any(word in finding["says"] for finding in findings)


# --- pcscd


async def test_readers_of_a_pcscd(cardferry: Commands, tmp_path: Path) -> None:
    async with served(tmp_path, [NAME]) as pcscd:
        pcscd.readers[0].insert(CountingCard())
        assert SEEN in await cardferry("doctor", f"pcscd:{pcscd.path}")
        assert (await cardferry("doctor", "--json", f"pcscd:{pcscd.path}")).isascii()
        async with cardferry.beside("attach", "-vv", f"pcscd:{pcscd.path}", until="export "):
            assert SEEN in await cardferry.listings()
            assert json.loads(await cardferry.json())[0]["readers"][0]["reader"].startswith(EVIL)


@asynccontextmanager
async def says(path: Path, said: bytes) -> AsyncIterator[None]:
    """Somebody listens at ``path``, says that whatever is asked, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield


async def test_a_pcscd_that_says_something_else(cardferry: Commands, tmp_path: Path) -> None:
    async with says(tmp_path / "s", EVIL.encode() * 9):
        await cardferry("doctor", f"pcscd:{tmp_path / 's'}")
        async with cardferry.beside("attach", "-vv", f"pcscd:{tmp_path / 's'}", until="pcscd at "):
            await cardferry.listings()


# --- the link


async def test_the_host_of_a_link(cardferry: Commands, tmp_path: Path) -> None:
    """Its software's name, its readers' names, and what it says when it ends."""
    source = VirtualReaderSource()
    source.add_reader(NAME).insert(CountingCard())
    async with (
        LocalManager([source]) as manager,
        LinkServer(manager, software=EVIL) as host,
        asyncio.TaskGroup() as tasks,
    ):

        def take(arrival: Arrival) -> None:
            tasks.create_task(host.serve(arrival.pipe, TESTER))

        address = UnixAddress(tmp_path / "l")
        async with taking(address, take):
            assert SEEN in await cardferry("doctor", str(address))
            async with cardferry.beside("attach", "-vv", str(address), until="export "):
                people = await cardferry.listings()
                assert people.count(SEEN) >= 3
                assert json.loads(await cardferry.json())[0]["links"][0]["link"]["software"] == EVIL


def bye(reason: int) -> bytes:
    """A good-bye with as many words as it can have."""
    words = (EVIL.encode() + b"A" * 255)[:255]
    return encode(Kind.BYE, 0, 0, bytes([reason, len(words)]) + words)


@pytest.mark.parametrize("reason", [1, *range(3, 8)])
async def test_a_good_bye(cardferry: Commands, tmp_path: Path, reason: int) -> None:
    async with says(tmp_path / "l", bye(reason)):
        told = await cardferry("attach", f"unix:{tmp_path / 'l'}")
        assert [line.split(":")[0] for line in told.splitlines()[-2:]] == ["error", "hint"]
        assert SEEN in told
        assert SEEN in await cardferry("doctor", f"unix:{tmp_path / 'l'}")


async def test_the_guest_of_a_link(cardferry: Commands, tmp_path: Path) -> None:
    """Its software's name, its programs' names, and a message that is none."""
    door = tmp_path / "l"
    words = ("host", "-vv", "--readers", "virtual:", "--listen", f"unix:{door}")
    async with cardferry.beside(*words, until="open files") as agent:
        async with asyncio.timeout(20):
            while not accepts(door):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        async with Guest(UnixAddress(door).dial, software=EVIL) as guest:
            await guest.ready()
            context = await guest.open(somebody(VERY_LONG[:500]))
            (reader,) = guest.snapshot.readers
            await context.connect(reader.name, ShareMode.EXCLUSIVE, Protocol.T0 | Protocol.T1)
            people = await cardferry.listings()
            assert people.count(SEEN) >= 3
            (one,) = json.loads(await cardferry.json())
            assert one["links"][0]["guest"]["software"] == EVIL
            assert EVIL in one["readers"][0]["holder"]
        assert SEEN in harmless(agent.bytes)


# --- programs


@pytest.fixture
def evil_name() -> Iterator[str]:
    """This process has a name that no program should have."""
    before = Path("/proc/self/comm").read_text().strip()
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_NAME, "\x1b[7m\x9b[blink]".encode())
    yield r"\x1b[7m\x9b[blink]"
    prctl(PR_SET_NAME, before.encode())


async def test_a_programs_name(cardferry: Commands, evil_name: str, tmp_path: Path) -> None:
    record = tmp_path / "record"
    async with cardferry.beside("attach", "-vv", "--record", str(record), "virtual:", until="export ") as attach:
        async with Program(MODERN, cardferry.folder / "virtual.sock") as program:
            await program.establish()
            (reader,) = await program.readers()
            await program.connecting(reader.name, int(ShareMode.EXCLUSIVE))
            assert evil_name in await cardferry.listings()
            assert json.loads(await cardferry.json())[0]["readers"][0]["holder"].startswith("\x1b[7m")
        await attach.says(evil_name)
        with ListeningSocket(tmp_path / "mine") as mine:
            told = await cardferry("attach", "--socket", str(mine.path), "virtual:")
            assert f"error: {mine.path} is in use by {evil_name}" in told
    lines = record.read_text()
    assert lines.isascii()
    assert "\\u001b[7m" in lines


# --- ssh and what it leads to

SSH = r'''#!{python}
"""An ssh, and a computer behind it, that say something evil wherever they can."""
import os, sys
evil = {evil!r}
words = sys.argv[1:]
def complain(text):
    os.write(2, text.encode() + b"\n")
if "-V" in words:
    complain("OpenSSH_9.2p1 " + evil)
elif "-M" in words and {login}:
    mark = word = words[-1].split()[-1]
    def say(*what):
        os.write(1, ("\n" + word + " " + " ".join(what) + "\n").encode())
    complain(evil)
    say(evil)
    say("boot")
    for line in sys.stdin:
        if line.startswith("word="):
            word = line.strip().removeprefix("word=")
        if line.strip() == mark:
            break
    say(evil)
    for fact in ("system", "temporary", "runtime", "pcscd"):
        say("fact", fact, ("/" if fact != "system" else "") + evil.replace("\r\n", ""))
    say("fact uid 0")
    say("fact installed pcscd")
    say("fact installed cardferry")
    say("fact terminal yes")
    say("ready")
    for line in sys.stdin:
        if line.startswith("quit"):
            say("bye")
            break
        number = line.split(" ")[0]
        if number.isdigit():
            complain(evil)
            for key in ("kind", "token", "since", "name", "running", "folder", "holder"):
                say(number, key, evil.replace("\r\n", ""))
            say(number, "fail", evil)
elif "-O" in words:
    complain("mux_client: " + evil)
    sys.exit(1)
elif "-T" in words and {login}:
    os.write(1, evil.encode())
    complain(evil)
    complain("error: " + evil.replace("\r\n", ""))
    complain("hint: " + evil.replace("\r\n", ""))
    sys.exit(3)
else:
    complain(evil)
    complain({last!r} + evil.replace("\r\n", ""))
    sys.exit(255)
'''


def fake_ssh(folder: Path, *, login: bool, last: str = "") -> Path:
    path = folder / "ssh"
    path.write_text(SSH.format(python=sys.executable, evil=EVIL, login=login, last=last))
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("attach", ""),
        ("share", ""),
        ("doctor", ""),
        ("run --from", ""),
        ("attach", "Permission denied ("),
        ("attach", "Bad configuration option: "),
        ("attach", "ssh: connect to host h port 22: "),
    ],
)
async def test_an_ssh_that_cannot_log_in(cardferry: Commands, tmp_path: Path, command: str, last: str) -> None:
    ssh = fake_ssh(tmp_path, login=False, last=last)
    more = ("--readers", "virtual:") if command == "share" else ()
    rest = ("--", "true") if command.startswith("run") else ()
    told = await cardferry(*command.split()[:1], "-e", str(ssh), *more, *command.split()[1:], "h", *rest)
    assert "pwned" in told
    assert "error: " in told or "✗ " in told


@pytest.mark.parametrize("command", ["attach", "attach -vv", "attach --no-link", "share", "doctor", "doctor --json"])
async def test_a_computer_behind_ssh(cardferry: Commands, tmp_path: Path, command: str) -> None:
    ssh = fake_ssh(tmp_path, login=True)
    more = ("--readers", "virtual:") if command == "share" else ()
    told = await cardferry(*command.split(), "-e", str(ssh), *more, "h")
    assert "pwned" in told


# --- this computer


async def test_a_path_that_is_no_text(cardferry: Commands, tmp_path: Path) -> None:
    """It is refused, and what is said of it is printable."""
    folder = tmp_path / os.fsdecode(b"f\xfc\x1b[7m'$(false)")
    folder.mkdir(mode=0o700)
    told = await cardferry("attach", "--socket", str(folder / "s"), "virtual:")
    error, hint = told.splitlines()
    assert error.startswith("error: the socket's path has characters that ssh, shells or terminals take")
    assert r"f\udcfc\x1b[7m" in error
    assert hint.startswith("hint: ")
    assert list(folder.iterdir()) == []


async def test_a_terminal_that_cannot_show_it(cardferry: Commands) -> None:
    cardferry.environ |= {"PYTHONIOENCODING": "ascii"}
    told = await cardferry("doctor")
    assert "Traceback" not in told
