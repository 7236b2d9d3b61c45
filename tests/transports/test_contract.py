"""The contract of `cardferry.transports.base`, held against every transport, in asyncio's loop and uvloop's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvloop

from cardferry.transports import memory, stdio, unix, vsock
from cardferry.transports.base import HIGH_WATER, Address, Pipe
from cardferry.transports.errors import AddressSyntaxError, TransportError
from cardferry.transports.exec import ExecAddress
from cardferry.transports.passed import PassedPipe
from cardferry.transports.program import ProgramPipe
from cardferry.transports.registry import TRANSPORTS, parse_listening
from cardferry.transports.sockets import Access
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import VsockAddress
from tests.lab.namespaces import PLAIN_PYTHON
from tests.transports.machines import Machines
from tests.transports.nats.service import joined_name
from tests.transports.taking import listening
from tests.transports.tls import tls_lab

Pair = tuple[Pipe, Pipe]
#: A program that passes on what comes: its standard streams, and a Unix socket.
BRIDGE = Path(__file__).with_name("bridge.py")


class User:
    """Records what a pipe tells."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.congestion: list[bool] = []
        self.losses: list[Exception | None] = []
        self.after_loss = 0
        self.woken = asyncio.Event()

    def received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data
        self.after_loss += bool(self.losses)
        self.data += data
        self.woken.set()

    def congested(self, congested: bool) -> None:
        self.after_loss += bool(self.losses)
        self.congestion.append(congested)
        self.woken.set()

    def lost(self, error: Exception | None) -> None:
        self.losses.append(error)
        self.woken.set()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.woken.clear()
            await self.woken.wait()


@asynccontextmanager
async def memory_pair(_: Path) -> AsyncIterator[Pair]:
    yield memory.memory_pipe()


def a_unix_socket(folder: Path, _: pytest.MonkeyPatch) -> Address:
    return UnixAddress(folder / "s")


def a_machines_port(folder: Path, patch: pytest.MonkeyPatch) -> Address:
    patch.setattr(vsock, "vsock_socket", Machines(folder))
    return VsockAddress(vsock.ANY, 35960)


def a_command(folder: Path, _: pytest.MonkeyPatch) -> Address:
    return ExecAddress((PLAIN_PYTHON, "-IS", str(BRIDGE), str(folder / "s")))


#: Scheme -> makes an address at which nobody listens yet.
EXAMPLES: dict[str, Callable[[Path, pytest.MonkeyPatch], Address]] = {
    "unix": a_unix_socket,
    "vsock": a_machines_port,
    "tls": tls_lab.joined_port,
    "fleet": joined_name,
    "exec": a_command,
}
#: How the one who has come is proved, where that has another name than the transport.
PROVED = {"fleet": "tls"}
#: Those at which this process can listen.
LISTENED = [scheme for scheme, transport in TRANSPORTS.items() if transport.LISTEN_FORM]


@contextmanager
def example(scheme: str, folder: Path) -> Iterator[Address]:
    """An address of a transport."""
    with pytest.MonkeyPatch.context() as patch:
        yield EXAMPLES[scheme](folder, patch)


def registered(scheme: str) -> Callable[[Path], AbstractAsyncContextManager[Pair]]:
    """Pairs of pipes that one dials, and somebody who listens takes."""

    @asynccontextmanager
    async def pair(folder: Path) -> AsyncIterator[Pair]:
        with example(scheme, folder) as address:
            async with listening(address if scheme in LISTENED else UnixAddress(folder / "s")) as arrivals:
                near = await address.dial()
                yield near, (await arrivals.get()).pipe
                if isinstance(near, ProgramPipe):
                    await near._program.gone  # the loop's children end before the loop

    pair.__name__ = scheme
    return pair


@asynccontextmanager
async def adopted_pair(_: Path) -> AsyncIterator[Pair]:
    one, two = socket.socketpair()
    yield await unix.adopt(one, "one"), await unix.adopt(two, "two")


@asynccontextmanager
async def stdio_pipes(_: Path) -> AsyncIterator[Pair]:
    (read_one, write_one), (read_two, write_two) = os.pipe(), os.pipe()
    yield await stdio.open_pipe(read_one, write_two), await stdio.open_pipe(read_two, write_one)


@asynccontextmanager
async def stdio_socket(_: Path) -> AsyncIterator[Pair]:
    one, two = socket.socketpair()
    near, far = one.detach(), two.detach()
    yield await stdio.open_pipe(near, near), await stdio.open_pipe(far, far)


@asynccontextmanager
async def passed_pair(_: Path) -> AsyncIterator[Pair]:
    one, two = memory.memory_pipe()
    yield PassedPipe(one), two


PAIRS = [memory_pair, passed_pair, adopted_pair, stdio_pipes, stdio_socket, *map(registered, TRANSPORTS)]
Script = Callable[[Pipe, Pipe], Awaitable[None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


@pytest.fixture(params=PAIRS, ids=lambda pair: pair.__name__)
def play(
    request: pytest.FixtureRequest, new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> Callable[[Script], None]:
    def run(script: Script) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20), request.param(tmp_path) as (one, two):
                await script(one, two)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(whole())

    return run


Play = Callable[[Script], None]


def test_bytes_arrive_in_order_both_ways(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        two.start(far)
        for number in range(1000):
            one.write(number.to_bytes(2, "big"))
            two.write(number.to_bytes(3, "big"))
        await far.until(lambda: len(far.data) == 2000)
        await near.until(lambda: len(near.data) == 3000)
        assert far.data == b"".join(number.to_bytes(2, "big") for number in range(1000))
        assert near.data == b"".join(number.to_bytes(3, "big") for number in range(1000))
        one.close()
        await near.until(lambda: bool(near.losses))
        await far.until(lambda: bool(far.losses))

    play(script)


def test_what_arrives_before_the_start_is_kept(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        one.write(b"early")
        one.write(b" bird")
        await asyncio.sleep(0)
        two.start(far)
        await far.until(lambda: far.data == b"early bird")
        two.abort()
        await near.until(lambda: bool(near.losses))

    play(script)


def test_a_pipe_has_one_user(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near = User()
        one.start(near)
        with pytest.raises(RuntimeError):
            one.start(User())
        two.start(User())
        one.abort()
        await near.until(lambda: bool(near.losses))

    play(script)


@pytest.mark.parametrize("play", [pair for pair in PAIRS if pair.__name__ not in ("exec", "tls")], indirect=True)
def test_the_last_words_of_who_has_closed_are_heard_by_who_is_writing(play: Play) -> None:
    """Not through a program, which may end before it has passed them on, nor through TLS, where a close is awaited."""

    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        two.start(far)
        one.pause_reading()
        two.write(b"good-bye")
        two.close()
        await far.until(lambda: bool(far.losses))
        one.write(b"it fails, before anything is read")
        one.resume_reading()
        await near.until(lambda: bool(near.losses))
        assert near.data == b"good-bye"
        assert near.after_loss == 0

    play(script)


def test_back_pressure_is_told_and_taken_back(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        two.start(far)
        two.pause_reading()
        two.pause_reading()
        written = 0
        while not near.congestion:
            one.write(bytes(16384))
            written += 16384
            assert written < 64 * HIGH_WATER, "nothing holds the writer back"
            await asyncio.sleep(0)
        assert near.congestion == [True]
        two.resume_reading()
        await near.until(lambda: near.congestion == [True, False])
        await far.until(lambda: len(far.data) == written)
        one.close()
        await far.until(lambda: bool(far.losses))

    play(script)


def test_a_paused_pipe_delivers_nothing(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        two.start(far)
        two.pause_reading()
        await asyncio.sleep(0)
        one.write(b"waits")
        two.write(b"passes")
        await near.until(lambda: near.data == b"passes")
        assert not far.data
        two.resume_reading()
        await far.until(lambda: far.data == b"waits")
        one.abort()
        await far.until(lambda: bool(far.losses))

    play(script)


def test_close_delivers_what_was_written(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        one.write(bytes(HIGH_WATER * 2))
        one.close()
        two.start(far)
        await far.until(lambda: bool(far.losses))
        await near.until(lambda: bool(near.losses))
        assert len(far.data) == HIGH_WATER * 2
        assert near.losses == [None]
        assert far.losses == [None]

    play(script)


@pytest.mark.parametrize("who", [0, 1])
def test_abort_is_heard_once_at_both_ends(play: Play, who: int) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        two.start(far)
        one.write(b"x")
        await far.until(lambda: far.data == b"x")
        (one, two)[who].abort()
        await near.until(lambda: bool(near.losses))
        await far.until(lambda: bool(far.losses))
        for pipe in (one, two):
            pipe.write(b"into the void")
            pipe.close()
            pipe.abort()
            pipe.pause_reading()
            pipe.resume_reading()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (len(near.losses), len(far.losses)) == (1, 1)
        assert (near.after_loss, far.after_loss) == (0, 0)

    play(script)


def test_a_pipe_that_was_lost_early_says_so_at_the_start(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        near, far = User(), User()
        one.start(near)
        one.abort()
        await near.until(lambda: bool(near.losses))
        two.start(far)
        await far.until(lambda: bool(far.losses))
        assert len(far.losses) == 1

    play(script)


def test_pipes_have_names(play: Play) -> None:
    async def script(one: Pipe, two: Pipe) -> None:
        assert one.name
        near = User()
        one.start(near)
        two.start(User())
        one.abort()
        await near.until(lambda: bool(near.losses))

    play(script)


async def test_dialling_where_nobody_listens_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await unix.dial(tmp_path / "nobody")


def test_streams_whose_other_end_has_gone_before_they_are_a_pipe(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def gone() -> None:
        (source, other), (rest, sink) = os.pipe(), os.pipe()
        os.close(other)
        pipe = await stdio.open_pipe(source, sink)
        user = User()
        pipe.start(user)
        async with asyncio.timeout(5):
            await user.until(lambda: user.losses == [None])
        os.close(rest)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(gone())


async def test_descriptors_that_are_files_are_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    with pytest.raises(OSError, match="no pipes"):
        await stdio.open_pipe(descriptor, descriptor)


# --- addresses

schemes = pytest.mark.parametrize("scheme", TRANSPORTS)
listened = pytest.mark.parametrize("scheme", LISTENED)


def test_each_transport_of_the_registry_is_held_to_the_contract() -> None:
    assert EXAMPLES.keys() == TRANSPORTS.keys()


@schemes
def test_an_address_says_how_it_is_written(scheme: str, tmp_path: Path) -> None:
    kind = TRANSPORTS[scheme]
    assert kind.FORM.startswith(f"{scheme}:")
    assert kind.LISTEN_FORM == "" or kind.LISTEN_FORM.startswith(f"{scheme}:")
    with pytest.raises(AddressSyntaxError) as raised:
        kind.parse("?'", f"{scheme}:?'")
    assert repr(f"{scheme}:?'") in raised.value.message
    assert f"{scheme}:" in raised.value.hint


@listened
def test_a_listeners_name_can_be_listened_at(scheme: str, tmp_path: Path) -> None:
    with example(scheme, tmp_path) as address, address.listen(Access()) as listener:
        assert parse_listening(listener.name) == address
        assert listener.name == address.listening_name


@listened
async def test_who_listens_knows_who_has_come(scheme: str, tmp_path: Path) -> None:
    with example(scheme, tmp_path) as address:
        async with listening(address) as arrivals:
            pipe = await address.dial()
            arrival = await arrivals.get()
            assert arrival.principal.kind == PROVED.get(scheme, scheme)
            assert arrival.principal.name
            assert arrival.name
            assert not arrival.refusal
            pipe.abort()


async def failure(address: Address) -> Exception | None:
    """Why one cannot get there; a command finds that out when it runs."""
    user = User()
    try:
        (await address.dial()).start(user)
    except TransportError as error:
        return error
    await user.until(lambda: bool(user.losses))
    return user.losses[0]


@schemes
async def test_dialling_where_nobody_listens_says_what_a_person_can_do(scheme: str, tmp_path: Path) -> None:
    with example(scheme, tmp_path) as address:
        error = await failure(address)
        assert isinstance(error, TransportError)
        assert error.hint
        assert error.heals
        assert address.who()
