"""Our client of pcscd against the real one, beside unmodified programs that use the same card."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.pcsc.constants import Attribute, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.base import Reader
from cardferry.readers.pcscd import PcscdReader, PcscdSource, Reason, unix_connector
from tests.lab import Lab
from tests.lab.cards import CardInReader, fake_card
from tests.lab.computer import PCSC_CLIENT, REPOSITORY, Computer
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Running
from tests.readers.observer import Remembering

pytestmark = [pytest.mark.real, pytest.mark.alone]

SELECT = bytes.fromhex("00a4040000")
COUNT = bytes.fromhex("80200000")
SHARED, ANY, T1 = ShareMode.SHARED, Protocol.ANY, Protocol.T1


class Host:
    """A computer with pcscd and a card that takes 20 ms for each APDU."""

    def __init__(self, lab: Lab) -> None:
        self.computer: Computer = lab.computer("host")
        self.pcscd = Pcscd(self.computer)
        self.card: CardInReader = fake_card(self.pcscd, delay=0.02)
        self.name = self.pcscd.reader(0)
        self.path = self.computer.outside(SOCKET)


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield Host(lab)


@asynccontextmanager
async def watching(host: Host) -> AsyncIterator[tuple[PcscdSource, Remembering]]:
    observer = Remembering()
    source = PcscdSource(unix_connector(str(host.path)), "the host")
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        try:
            yield source, observer
        finally:
            task.cancel()


async def card_of(observer: Remembering, host: Host) -> Reader:
    """The reader, when its card is there."""
    await observer.wait_for("card inserted", host.name, bytes.fromhex("3b80800101"))
    return observer.readers[host.name]


async def in_thread(call: object, *words: object) -> None:
    await asyncio.to_thread(call, *words)  # type: ignore[arg-type]


async def transaction(reader: Reader, *apdus: bytes) -> list[bytes]:
    await reader.claim()
    try:
        return [await reader.transmit(apdu, T1) for apdu in apdus]
    finally:
        await reader.release()


async def test_a_card_is_read_reset_and_pulled(host: Host) -> None:
    async with watching(host) as (source, observer):
        reader = await card_of(observer, host)
        assert source.minor >= 4
        assert {other.name for other in source.readers} == {host.pcscd.reader(0), host.pcscd.reader(1)}
        assert await reader.connect(SHARED, ANY) == T1
        assert await reader.transmit(SELECT, T1) == b"\x90\x00"
        assert len(await reader.transmit(bytes.fromhex("80100400"), T1)) == 1026
        assert await reader.reset(Disposition.RESET, ANY) == T1
        assert await reader.reset(Disposition.UNPOWER, ANY) == T1
        first, second = await transaction(reader, COUNT, COUNT)
        assert int.from_bytes(second[:4], "big") == int.from_bytes(first[:4], "big") + 1
        with pytest.raises(PcscError) as caught:
            await reader.control(0x42000001, b"", 100)
        assert caught.value.code is ReturnCode.E_UNSUPPORTED_FEATURE
        with pytest.raises(PcscError) as caught:
            await reader.attribute(Attribute.VENDOR_NAME)
        assert caught.value.code is ReturnCode.E_UNSUPPORTED_FEATURE
        await in_thread(host.card.remove)
        await observer.wait_for("card removed", host.name)
        with pytest.raises(PcscError) as caught:
            await reader.transmit(SELECT, T1)
        assert caught.value.code is ReturnCode.W_REMOVED_CARD
        await in_thread(host.card.insert)
        await card_of(observer, host)
        assert await reader.connect(SHARED, ANY) == T1
        assert await reader.transmit(SELECT, T1) == b"\x90\x00"


async def test_direct_without_a_card(host: Host) -> None:
    async with watching(host) as (_, observer):
        await card_of(observer, host)
        empty = observer.readers[host.pcscd.reader(1)]
        await empty.connect(ShareMode.DIRECT, Protocol.UNDEFINED)
        with pytest.raises(PcscError) as caught:
            await empty.connect(SHARED, ANY)
        assert caught.value.code is ReturnCode.E_NO_SMARTCARD


async def test_the_lock_is_not_held_when_nobody_holds_the_card(host: Host) -> None:
    async with watching(host) as (_, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        for _ in range(5):
            await transaction(reader, SELECT, SELECT)
        await reader.transmit(SELECT, T1)
        done = await asyncio.to_thread(host.computer.pcsc, f"loop\t{host.name}\t--count\t5")
        assert [owned - asked < 0.09 for asked, owned, _ in done["turns"]] == [True] * 5  # nobody made it come back


async def test_a_held_card_is_held_and_released_when_a_claim_is_cancelled(host: Host) -> None:
    async with watching(host) as (_, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        holder = host.computer.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", host.name], stdin=True)
        await in_thread(holder.wait_for, "held")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.33):
                    await transaction(reader, COUNT)
        before = json.loads((await asyncio.to_thread(ended_hold, holder)).splitlines()[-1])
        assert before["answer"] == "9000"
        done = await asyncio.to_thread(host.computer.pcsc, f"loop\t{host.name}\t--count\t3")
        assert done["count"] == 3


def ended_hold(holder: Running) -> str:
    """Let the holder go on to its end; its output."""
    holder.write("\n")
    return holder.wait().check().out


async def test_local_programs_get_their_turn_while_we_loop(host: Host) -> None:
    """Two at a time with the system's libpcsclite. Without our pauses they would wait for ever."""
    turns = 8
    words: list[str | Path] = [PLAIN_PYTHON, Path(__file__).with_name("local_program.py"), host.name, str(turns), "0.1"]
    async with watching(host) as (_, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        ended = asyncio.Event()
        ours = started_over = 0
        async with asyncio.TaskGroup() as tasks:

            async def all_ended() -> list[str]:
                programs = [host.computer.popen(words), host.computer.popen(words)]
                results = [await asyncio.to_thread(program.wait, 80) for program in programs]
                ended.set()
                return [result.check().out for result in results]

            outputs = tasks.create_task(all_ended())
            while not ended.is_set():
                try:
                    await transaction(reader, SELECT)
                except PcscError as error:
                    if error.code is not ReturnCode.W_RESET_CARD:
                        raise
                    started_over += 1
                else:
                    ours += 1
        assert started_over <= 2, "each program can come as a surprise once"
        for output in outputs.result():
            done = json.loads(output)
            waits = sorted(done["waits"])
            print(f"connected in {done['connected']:.2f} s; waits {waits[0]:.2f} to {waits[-1]:.2f} s; ours {ours}")
            assert waits[turns // 2] < 2
            assert waits[-1] < 6
        assert ours >= 20


async def test_transactions_are_never_mixed_with_those_of_programs_that_come_and_go(host: Host) -> None:
    """Programs that connect, use the card and go: each comes as a surprise. The card's counter tells of intruders."""
    turn = f"{PLAIN_PYTHON} {PCSC_CLIENT} apdu '{host.name}' " + "80200000 " * 4
    async with watching(host) as (_, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        local = host.computer.popen(["bash", "-c", f"for i in $(seq 30); do {turn} || exit 1; sleep 0.0$i; done"])
        ended = asyncio.Event()
        complete = resets = 0
        async with asyncio.TaskGroup() as tasks:

            async def all_ended() -> str:
                result = await asyncio.to_thread(local.wait, 60)
                ended.set()
                return result.check().out

            output = tasks.create_task(all_ended())
            while not ended.is_set():
                await asyncio.sleep(0.013)
                try:
                    answers = await transaction(reader, COUNT, COUNT, COUNT)
                except PcscError as error:
                    if error.code is not ReturnCode.W_RESET_CARD:
                        raise
                    resets += 1
                    continue
                counts = [int.from_bytes(answer[:4], "big") for answer in answers]
                assert counts == [counts[0], counts[0] + 1, counts[0] + 2]
                complete += 1
        lines = [json.loads(line)["answers"] for line in output.result().splitlines()]
        assert len(lines) == 30
        for answers in lines:
            counts = [int(answer[:8], 16) for answer in answers]
            assert counts == list(range(counts[0], counts[0] + 4))
        print(f"{complete} complete transactions of ours, {resets} started over")
        assert complete > 10


async def test_a_program_that_vanishes_in_its_transaction_resets_the_card_and_we_say_so(host: Host) -> None:
    async with watching(host) as (_, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        holder = host.computer.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", host.name], stdin=True)
        await in_thread(holder.wait_for, "held")
        holder.kill()
        # pcscd frees the lock, marks the handles, resets the card and forgets the protocol. Transactions of ours may
        # come in between each of these; then we say it when it begins and when it is through.
        said = 0
        while True:
            with pytest.raises(PcscError) as caught:
                await asyncio.wait_for(again_and_again(reader, 50 if said else 1000), 60)
            if caught.value.code is not ReturnCode.W_RESET_CARD:
                break
            said += 1
        assert caught.value.code is ReturnCode.E_CANCELLED
        assert said in (1, 2)


async def again_and_again(reader: Reader, count: int) -> None:
    """Transactions until something happens, ``E_CANCELLED`` at the latest after so many."""
    for _ in range(count):
        assert await transaction(reader, SELECT) == [b"\x90\x00"]
    raise PcscError(ReturnCode.E_CANCELLED)


async def test_pcscd_is_killed_and_started_again(host: Host) -> None:
    async with watching(host) as (source, observer):
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        call = asyncio.gather(reader.transmit(bytes.fromhex("80307530"), T1), return_exceptions=True)
        await asyncio.sleep(0)
        host.pcscd.process.kill()
        await observer.wait_for("reader removed", host.name)
        (error,) = await call
        assert isinstance(error, PcscError)
        assert error.code is ReturnCode.E_READER_UNAVAILABLE
        failure = source.failure
        assert failure is not None
        assert failure.reason in (Reason.LOST, Reason.NO_SOCKET, Reason.NOBODY_LISTENS)
        await in_thread(host.pcscd.start)
        source.reconnect_now()
        await observer.wait_for("reader added", host.name)
        await in_thread(host.card.insert)
        reader = await card_of(observer, host)
        await reader.connect(SHARED, ANY)
        assert await transaction(reader, SELECT) == [b"\x90\x00"]


async def test_a_card_that_another_program_has_unpowered_has_power_again_when_we_use_it(host: Host) -> None:
    """pcscd's RECONNECT does not see to it, its CONNECT does."""
    host.computer.popen(
        [sys.executable, "-m", "tests.readers.card_powered", f"--port={host.pcscd.port(1)}"],
        env={"PYTHONPATH": str(REPOSITORY)},
        mounts=False,
    )
    await in_thread(host.pcscd.wait_for_card, 1)
    name = host.pcscd.reader(1)
    dial = unix_connector(str(host.path))
    ours, other = (PcscdReader(name, dial, 4, lambda reader: None) for _ in range(2))
    await ours.connect(SHARED, ANY)
    await other.connect(SHARED, ANY)
    assert await ours.transmit(SELECT, T1) == b"\x01\x90\x00"
    await other.disconnect(Disposition.UNPOWER)
    await other.connect(ShareMode.DIRECT, Protocol.UNDEFINED)  # answered when the disconnect is done
    with pytest.raises(PcscError) as caught:
        await ours.transmit(SELECT, T1)
    assert caught.value.code is ReturnCode.W_RESET_CARD
    assert await ours.transmit(SELECT, T1) == b"\x01\x90\x00"
    ours.close()
    other.close()


async def test_ten_at_once_find_a_place_in_pcscds_short_queue(host: Host) -> None:
    dial = unix_connector(str(host.path))
    readers = [PcscdReader(host.name, dial, 4, lambda reader: None) for _ in range(10)]
    async with asyncio.TaskGroup() as tasks:
        for reader in readers:
            tasks.create_task(reader.connect(SHARED, ANY))
    for reader in readers:
        assert await reader.transmit(SELECT, T1) == b"\x90\x00"
        reader.close()


async def test_no_pcscd_there(tmp_path: Path) -> None:
    states: list[Reason | None] = []
    source = PcscdSource(
        unix_connector(str(tmp_path / "none")),
        "here",
        lambda up, failure: states.append(failure.reason if failure else None),
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(Remembering()))
        async with asyncio.timeout(10):
            while not states:  # noqa: ASYNC110 - nothing to wait on in this process but the loop itself
                await asyncio.sleep(0)
        task.cancel()
    assert states == [Reason.NO_SOCKET]
