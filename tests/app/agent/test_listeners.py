"""Listeners: who comes in, who does not, and that those who say nothing keep nobody out."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cardferry.app.agent import listeners as module
from cardferry.app.agent.listeners import GuestListeners
from cardferry.app.hosts.direct_link import linked_directly
from cardferry.link import Guest, LinkRefusedError, LinkServer, LinkState
from cardferry.manager import LocalManager
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.transports import accepting, unix, vsock
from cardferry.transports.base import Address
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.listening import SocketInUseError
from cardferry.transports.registry import TRANSPORTS, parse_listening
from cardferry.transports.sockets import Access, FolderUnsafeError
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import ANY, VsockAddress, VsockError
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.greeting import Hello, Reason, Role
from tests.app.agent.at_work import until
from tests.link.cards import CountingCard
from tests.link.desk import READER
from tests.transports.machines import Machines
from tests.transports.test_contract import User

PORT = 35960
HELLO = encode(Kind.HELLO, 0, 0, Hello(Role.GUEST, bytes(16), False, 0, 10_000).encode())


@asynccontextmanager
async def open_at(*addresses: Address) -> AsyncIterator[LinkServer]:
    """A host with a reader that listens."""
    source = VirtualReaderSource()
    source.add_reader(READER).insert(CountingCard())
    with ExitStack() as stack:
        listeners = [stack.enter_context(address.listen(Access())) for address in addresses]
        async with GuestListeners(listeners) as guests, LocalManager([source]) as manager, LinkServer(manager) as host:
            guests.open(host.serve)
            yield host


async def connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A caller that has said nothing yet."""
    return await asyncio.open_unix_connection(path)


async def turned_away(reader: asyncio.StreamReader) -> bytes:
    """What a caller hears before it is turned away."""
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            return await reader.read()
    return b""


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


both_loops = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


# --- what is written


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/cards/link", UnixAddress(Path("/run/cards/link"))),
        ("/run/cards/link", UnixAddress(Path("/run/cards/link"))),
        ("vsock::35960", VsockAddress(ANY, 35960)),
        ("vsock://any:35960", VsockAddress(ANY, 35960)),
        ("vsock:3:35960", VsockAddress(3, 35960)),
        ("vsock://3:35960", VsockAddress(3, 35960)),
        ("vsock:host:35960", VsockAddress(2, 35960)),
    ],
)
def test_each_form_of_an_address_to_listen_at(text: str, address: Address) -> None:
    assert parse_listening(text) == address


@pytest.mark.parametrize("text", ["", "link", "unix:", "unix:link", "vsock:", "vsock:35960", "vsock:guest:1", "tcp::1"])
def test_what_is_no_address_to_listen_at_is_wrong_usage(text: str) -> None:
    with pytest.raises(AddressSyntaxError) as raised:
        parse_listening(text)
    assert raised.value.exit_code == 2
    scheme = text.partition(":")[0]
    forms = [TRANSPORTS[scheme]] if scheme in TRANSPORTS else TRANSPORTS.values()
    assert all(f"{one.LISTEN_FORM.partition(':')[0]}:" in raised.value.hint for one in forms)


# --- guests on this computer


@both_loops
def test_a_guest_comes_in_and_is_known_by_what_the_kernel_says(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    path = tmp_path / "link"

    async def whole() -> None:
        async with open_at(UnixAddress(path)) as host, linked_directly(UnixAddress(path)) as guest:
            assert [reader.name for reader in guest.snapshot.readers] == [READER]
            (known,) = host.status.guests
            assert known.guest.endswith(f"(process {os.getpid()}, user {os.getuid()})")

    run(new_loop, whole())
    assert not path.exists()


@both_loops
def test_a_hello_in_single_bytes_is_one(new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path) -> None:
    path = tmp_path / "link"

    async def whole() -> None:
        async with open_at(UnixAddress(path)) as host:
            reader, writer = await connected(path)
            for number in range(len(HELLO)):
                writer.write(HELLO[number : number + 1])
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                assert (await reader.readexactly(5))[4] == Kind.HELLO
            assert len(host.status.guests) == 1
            writer.close()

    run(new_loop, whole())


@both_loops
def test_what_came_with_the_hello_is_not_lost(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def whole() -> None:
        near, far = socket.socketpair()
        said = HELLO[:-2], HELLO[-2:] + b" there" * 10_000
        near.setblocking(False)
        pipe, user = module._GreetedPipe(await unix.adopt(far, "far")), User()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(near, said[0])
        sending = loop.create_task(loop.sock_sendall(near, said[1]))
        assert await pipe.hello
        for _ in range(3):
            await asyncio.sleep(0)
        pipe.start(user)
        await user.until(lambda: user.data == b"".join(said))
        await sending
        near.close()
        await user.until(lambda: bool(user.losses))

    run(new_loop, whole())


def test_the_socket_is_the_users_alone_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "link"
    with UnixAddress(path).listen(Access()):
        assert path.stat().st_mode & 0o777 == 0o600
    with UnixAddress(path).listen(Access(0o660)):
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    before = path.stat().st_ctime_ns
    with UnixAddress(path).listen(Access()):
        assert path.stat().st_ctime_ns != before


def test_a_folder_that_is_not_there_is_an_error_that_names_our_own_option(tmp_path: Path) -> None:
    with pytest.raises(FolderUnsafeError) as raised, UnixAddress(tmp_path / "nothing" / "link").listen(Access()):
        pass
    assert raised.value.exit_code == 12
    assert "--listen PATH" in raised.value.hint


def test_a_live_socket_and_what_is_none_are_left_alone(tmp_path: Path) -> None:
    live, other = tmp_path / "live", tmp_path / "other"
    other.write_text("precious")
    with UnixAddress(live).listen(Access()):
        for path in (live, other):
            with pytest.raises(SocketInUseError) as raised, UnixAddress(path).listen(Access()):
                pass
            assert raised.value.exit_code == 11
            assert "--listen unix:PATH" in raised.value.hint
        assert live.is_socket()
    assert other.read_text() == "precious"


async def test_the_host_says_good_bye_before_the_listeners_close(tmp_path: Path) -> None:
    path = tmp_path / "link"
    states: list[LinkState] = []
    async with Guest(UnixAddress(path).dial, report=states.append) as guest:
        async with open_at(UnixAddress(path)):
            await until(lambda: guest.state is LinkState.UP)
        await until(lambda: guest.state is LinkState.DOWN)
        assert guest.farewell is not None
        assert guest.farewell.reason is Reason.CLOSED
    assert LinkState.BROKEN not in states


async def test_guests_come_back_to_a_host_that_was_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "link"
    async with Guest(UnixAddress(path).dial) as guest:
        for _ in range(3):
            async with open_at(UnixAddress(path)):
                await until(lambda: guest.state is LinkState.UP and bool(guest.snapshot.readers))
            await until(lambda: guest.state is LinkState.DOWN)


# --- those who do not come in


async def test_who_says_nothing_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GREETING_TIME", 0.05)
    path = tmp_path / "link"
    async with open_at(UnixAddress(path)) as host:
        for said in (b"", HELLO[:-1]):
            reader, writer = await connected(path)
            writer.write(said)
            assert await turned_away(reader) == b""
            writer.close()
        assert not host.status.guests


async def test_thousands_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "link"
    async with open_at(UnixAddress(path)), linked_directly(UnixAddress(path)) as before:
        silent: list[socket.socket] = []
        loop = asyncio.get_running_loop()
        for number in range(2000):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            silent.append(one)
            await loop.sock_connect(one, os.fspath(path))
            if number % 500 == 0:
                async with linked_directly(UnixAddress(path)) as guest:
                    assert guest.snapshot.readers

        def still_connected() -> int:
            return sum(not _over(one) for one in silent)

        await until(lambda: still_connected() <= 64)
        assert still_connected() > 0, "those who have only just come get their time"
        async with linked_directly(UnixAddress(path)) as guest:
            assert guest.snapshot.readers
        assert before.state is LinkState.UP
        assert before.status.resumes == 0
        for one in silent:
            one.close()


def _over(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" * 3, bytes(100), HELLO[:4] + b"\xff" + HELLO[5:]])
async def test_what_is_no_hello_is_refused_in_the_links_own_words(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "link"
    async with open_at(UnixAddress(path)) as host:
        reader, writer = await connected(path)
        writer.write(said)
        heard = await turned_away(reader)
        assert heard[4] == Kind.BYE
        assert heard[21] == Reason.PROTOCOL
        writer.close()
        assert not host.status.guests
        async with linked_directly(UnixAddress(path)) as guest:
            assert guest.snapshot.readers


async def test_a_first_frame_without_an_end_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "link"
    async with open_at(UnixAddress(path)):
        reader, writer = await connected(path)
        writer.write(encode(Kind.DATA, 1, 0, bytes(1 << 20))[: 1 << 16])
        assert await turned_away(reader) == b""
        writer.close()


async def test_without_descriptors_guests_come_in_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "SHORTAGE_PAUSE", 0.01)
    path = tmp_path / "link"
    failures = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError(errno.ECONNABORTED, "gone")]
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept

    async def short(listening: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop(0)
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", short)
    async with open_at(UnixAddress(path)), linked_directly(UnixAddress(path)) as guest:
        assert guest.snapshot.readers
    assert not failures


@pytest.mark.parametrize("name", ["_said_hello", "_GreetedPipe", "serve", "as_unix"])
async def test_a_bug_behind_one_caller_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = tmp_path / "link"

    def failing(*_: object) -> Any:
        raise RuntimeError("injected")

    async with open_at(UnixAddress(path)) as host:
        with monkeypatch.context() as patched:
            if name == "serve":
                patched.setattr(host, "_session", failing)
            else:
                where = {"as_unix": unix, "_said_hello": GuestListeners, "_GreetedPipe": module}[name]
                patched.setattr(where, name, failing)
            reader, writer = await connected(path)
            writer.write(HELLO)
            await turned_away(reader)
            writer.close()
        assert "RuntimeError: injected" in caplog.text
        async with linked_directly(UnixAddress(path)) as guest:
            assert guest.snapshot.readers


# --- guests in machines


EVERYBODY = VsockAddress(ANY, PORT)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "vsock_socket", Machines(tmp_path))


@pytest.mark.usefixtures("machines")
async def test_a_machine_comes_in() -> None:
    async with open_at(EVERYBODY) as host, Guest(EVERYBODY.dial) as guest:
        await guest.ready()
        (one,) = host.status.guests
        assert (one.principal, one.guest) == ("vsock:unknown", "machine unknown")  # the stand-in has no CID


@pytest.mark.usefixtures("machines")
async def test_a_machine_that_must_not_come_in_does_not() -> None:
    async with open_at(VsockAddress(3, PORT)) as host, Guest(EVERYBODY.dial) as guest:
        with pytest.raises(LinkRefusedError, match="not for this machine"):
            await guest.ready()
        assert not host.status.guests


@pytest.mark.parametrize(
    ("address", "peer", "who", "comes_in"),
    [
        (EVERYBODY, (7, 1024), "7", True),
        (VsockAddress(3, PORT), (3, 1024), "3", True),
        (VsockAddress(3, PORT), (4, 1024), "4", False),
    ],
)
def test_machines_are_known_by_their_number(
    address: VsockAddress, peer: tuple[int, int], who: str, comes_in: bool
) -> None:
    with socket.socket() as connection:
        known = address._identify(connection, peer)
    assert (str(known.principal), known.name) == (f"vsock:{who}", f"machine {who}")
    assert (known.refusal == "") is comes_in


@pytest.mark.usefixtures("machines")
def test_a_port_that_is_taken_is_an_error_for_people() -> None:
    with EVERYBODY.listen(Access()) as one:
        assert one.name == f"vsock::{PORT}"
        with pytest.raises(VsockError, match=rf"vsock://any:{PORT}"), VsockAddress(3, PORT).listen(Access()):
            pass
