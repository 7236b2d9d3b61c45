"""One reader of a pcscd: handles, errors, and what other programs do to the card."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.wire.pcsclite.messages import (
    BeginTransaction,
    Connect,
    Disconnect,
    EndTransaction,
    EstablishContext,
    GetReadersState,
    Reconnect,
    Request,
    Transmit,
    Version,
)
from tests.readers.pcscd.fake import ATR, FakePcscd, FakeReader

NAME = "Fake 00 00"
SELECT = bytes.fromhex("00a40000023f00")
VERIFY = bytes.fromhex("0020008104313233")
LOST: list[str] = []


def prepared(minor: int = 4, delay: float = 0.0) -> tuple[FakePcscd, FakeReader, PcscdReader]:
    pcscd = FakePcscd(minor, delay)
    there = pcscd.add_reader(NAME)
    there.insert()
    LOST.clear()
    return pcscd, there, PcscdReader(NAME, pcscd.dial, minor, lambda reader: LOST.append(reader.name))


async def connected(minor: int = 4, delay: float = 0.0) -> tuple[FakePcscd, FakeReader, PcscdReader]:
    pcscd, there, reader = prepared(minor, delay)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    return pcscd, there, reader


async def transmit(reader: PcscdReader, apdu: bytes = SELECT) -> bytes:
    return await reader.transmit(apdu, Protocol.T1)


async def failure(reader: PcscdReader, apdu: bytes = SELECT) -> ReturnCode:
    with pytest.raises(PcscError) as caught:
        await transmit(reader, apdu)
    return caught.value.code


def kinds(requests: list[Request]) -> list[type[Request]]:
    return [type(request) for request in requests]


def now() -> float:
    return asyncio.get_running_loop().time()


# handles


@pytest.mark.parametrize("minor", [2, 3, 4, 5, 6])
async def test_the_connection_opens_with_the_first_call_and_wastes_no_round_trip(minor: int) -> None:
    pcscd, there, reader = prepared(minor)
    assert pcscd.dialled == []
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    writes = [kinds(write) for write in pcscd.dialled[0].writes]
    size_of_names = [[GetReadersState, Version]] if minor == 2 else []
    assert writes == [[Version], *size_of_names, [EstablishContext], [Connect, GetReadersState]]
    assert await transmit(reader) == b"\x90\x00"
    assert len(pcscd.dialled) == 1
    assert there.commands == [SELECT]


async def test_direct_needs_no_card() -> None:
    _, there, reader = prepared()
    there.remove()
    assert await reader.connect(ShareMode.DIRECT, Protocol.UNDEFINED) == Protocol.UNDEFINED
    assert await reader.control(GET_FEATURE_REQUEST, b"echo", 100) == b"echo"


async def test_a_card_handle_replaces_a_direct_one_in_one_write() -> None:
    pcscd, there, reader = prepared()
    await reader.connect(ShareMode.DIRECT, Protocol.UNDEFINED)
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    assert kinds(pcscd.dialled[0].writes[-1]) == [Disconnect, Connect, GetReadersState]
    assert len(there.handles) == 1


async def test_no_card_no_connection() -> None:
    _, there, reader = prepared()
    there.remove()
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_NO_SMARTCARD


async def test_a_local_exclusive_program_is_told_at_once() -> None:
    pcscd, _, reader = prepared()
    pcscd.script[Connect] = [ReturnCode.E_SHARING_VIOLATION]
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_SHARING_VIOLATION


async def test_calls_without_a_handle_fail() -> None:
    _, _, reader = prepared()
    assert await failure(reader) is ReturnCode.E_INVALID_HANDLE
    with pytest.raises(PcscError):
        await reader.claim()
    await reader.release()
    await reader.disconnect(Disposition.LEAVE)


async def test_disconnect_does_not_wait() -> None:
    _, there, reader = await connected(delay=0.025)
    before = now()
    await reader.disconnect(Disposition.LEAVE)
    assert now() == before
    await asyncio.sleep(0.1)
    assert there.handles == {}
    assert there.commands == []


async def test_disconnect_with_a_disposition() -> None:
    _, there, reader = await connected()
    await reader.disconnect(Disposition.UNPOWER)
    await asyncio.sleep(1)
    assert there.commands == ["unpower"]


async def test_a_refused_disconnect_leaves_no_handle_behind() -> None:
    pcscd, there, reader = await connected()
    pcscd.script[Disconnect] = [ReturnCode.E_SHARING_VIOLATION]
    await reader.disconnect(Disposition.RESET)
    await asyncio.sleep(1)
    assert there.handles == {}


async def test_a_cancelled_connect_leaves_no_handle_behind() -> None:
    _, there, reader = prepared()
    there.lock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await reader.connect(ShareMode.SHARED, Protocol.ANY)
    there.unlock()
    await asyncio.sleep(1)
    assert there.handles == {}
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    assert len(there.handles) == 1


async def test_reset_is_a_reconnect() -> None:
    pcscd, there, reader = await connected()
    assert await reader.reset(Disposition.RESET, Protocol.ANY) == Protocol.T1
    assert await reader.reset(Disposition.UNPOWER, Protocol.ANY) == Protocol.T1
    assert there.commands == ["reset", "unpower"]
    reconnects = [request for request in pcscd.dialled[0].requests if isinstance(request, Reconnect)]
    assert [(request.share, request.initialization) for request in reconnects] == [(2, 1), (2, 2)]


# calls


async def test_attributes_and_control_go_through() -> None:
    pcscd, _, reader = await connected()
    assert await reader.attribute(0x90303) == b"value"
    await reader.set_attribute(0x90303, b"other")
    assert await reader.control(0x42000001, b"data", 10) == b"data"
    assert pcscd.connections[0].requests[-1].receive_length == 10  # type: ignore[union-attr]


async def test_errors_are_those_of_pcscd() -> None:
    pcscd, _, reader = await connected()
    pcscd.script[Transmit] = [ReturnCode.E_NO_SMARTCARD, ReturnCode.E_NOT_TRANSACTED]
    assert [await failure(reader) for _ in range(2)] == [ReturnCode.E_NO_SMARTCARD, ReturnCode.E_NOT_TRANSACTED]


@pytest.mark.parametrize("response", [b"", b"\x90"])
async def test_a_response_shorter_than_a_status_word_is_passed_on(response: bytes) -> None:
    _, there, reader = await connected()
    there.response = lambda apdu: response
    assert await transmit(reader) == response


async def test_the_protocol_in_force_is_used_and_raw_stays_raw() -> None:
    pcscd, _, reader = await connected()
    await reader.transmit(SELECT, Protocol.T0)
    await reader.transmit(SELECT, Protocol.RAW)
    transmits = [request for request in pcscd.dialled[0].requests if isinstance(request, Transmit)]
    assert [request.protocol for request in transmits] == [Protocol.T1, Protocol.RAW]


async def test_a_protocol_that_does_not_exist_goes_no_further() -> None:
    _, there, reader = prepared()
    there.protocol = 0x7FFF_FF02
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) is Protocol.T1


async def test_a_reader_that_pcscd_has_no_more() -> None:
    pcscd, _, reader = await connected()
    pcscd.remove_reader(NAME)
    assert await failure(reader) is ReturnCode.E_READER_UNAVAILABLE
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
    reader.close()
    assert await failure(reader) is ReturnCode.E_READER_UNAVAILABLE
    with pytest.raises(PcscError):
        await reader.claim()


async def test_cancelled_callers_do_not_pile_up_requests() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 3600
    for _ in range(100):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await transmit(reader)
    assert len(pcscd.dialled[0].requests) < 30
    there.apdu_time = 0
    assert await transmit(reader) == b"\x90\x00"


async def test_a_dead_pcscd_is_not_sent_requests_without_end() -> None:
    """Neither by transactions without commands, which nothing waits for, nor by callers that give up connecting."""
    pcscd, _, reader = await connected()
    pcscd.dialled[0].sleep(1e9, lambda: None)  # it is stuck

    async def empty_transactions() -> None:
        while True:
            await reader.claim()
            await reader.release()
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(empty_transactions(), 10)
    for _ in range(50):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert len(pcscd.dialled[0].requests) < 40


@pytest.mark.parametrize("call", ["transmit", "control", "set_attribute"])
async def test_what_is_too_long_is_refused(call: str) -> None:
    pcscd, _, reader = await connected()
    before = len(pcscd.dialled[0].requests)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "transmit": lambda: transmit(reader, bytes(65549)),
        "control": lambda: reader.control(1, bytes(65549), 10),
        "set_attribute": lambda: reader.set_attribute(1, bytes(265)),
    }
    with pytest.raises(PcscError) as caught:
        await calls[call]()
    assert caught.value.code is ReturnCode.E_INVALID_PARAMETER
    assert len(pcscd.dialled[0].requests) == before


async def test_the_answer_to_a_cancelled_call_reaches_nobody_else() -> None:
    _, there, reader = await connected()
    there.apdu_time = 1
    there.response = lambda apdu: apdu[:2] + b"\x90\x00"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await transmit(reader, VERIFY)
    assert await transmit(reader, SELECT) == SELECT[:2] + b"\x90\x00"


# other programs have the card


@pytest.mark.parametrize("call", ["transmit", "control", "attribute", "set_attribute", "reset"])
async def test_a_call_that_others_lock_refuses_is_done_inside_a_claim(call: str) -> None:
    pcscd, there, reader = await connected()
    there.lock()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "transmit": lambda: transmit(reader),
        "control": lambda: reader.control(1, b"", 10),
        "attribute": lambda: reader.attribute(1),
        "set_attribute": lambda: reader.set_attribute(1, b""),
        "reset": lambda: reader.reset(Disposition.RESET, Protocol.ANY),
    }
    before = now()
    with pytest.raises(PcscError) as caught:
        await calls[call]()
    assert caught.value.code is ReturnCode.E_SHARING_VIOLATION
    assert now() == before
    asyncio.get_running_loop().call_later(60, there.unlock)
    await reader.claim()
    await calls[call]()
    assert 59.99 < now() - before < 60.5
    assert len(pcscd.dialled[0].requests) < 620


async def test_a_waiting_call_can_be_cancelled_and_was_not_executed() -> None:
    _, there, reader = await connected()
    there.lock()

    async def work() -> None:
        await reader.claim()
        await transmit(reader)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 10)
    await reader.release()
    there.unlock()
    await asyncio.sleep(1)
    assert there.commands == []


async def test_a_reset_by_others_is_told_once_and_nothing_was_executed() -> None:
    pcscd, there, reader = await connected()
    there.reset_by_other()
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    assert there.commands == []
    assert kinds(pcscd.dialled[0].writes[-1]) == [Disconnect, Connect, GetReadersState]
    assert await transmit(reader) == b"\x90\x00"
    assert len(there.handles) == 1


@pytest.mark.parametrize("then", ["transmit", "claim"])
async def test_a_reset_whose_caller_was_cancelled_is_told_to_the_next_one(then: str) -> None:
    pcscd, there, reader = await connected()
    pcscd.script[Transmit] = [ReturnCode.W_RESET_CARD]
    there.lock()  # so that the new handle takes its time
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await transmit(reader)
    there.unlock()
    with pytest.raises(PcscError) as caught:
        await (transmit(reader) if then == "transmit" else reader.claim())
    assert caught.value.code is ReturnCode.W_RESET_CARD
    assert there.commands == []
    assert await transmit(reader) == b"\x90\x00"
    await asyncio.sleep(1)
    assert len(there.handles) == 1


async def test_a_reset_that_goes_on_while_the_handle_is_renewed_is_told_when_it_shows() -> None:
    """pcscd marks the handles first and forgets the protocol last; in between a new handle looks good."""
    _, there, reader = await connected()
    there.handles = dict.fromkeys(there.handles, ReturnCode.W_RESET_CARD)
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    assert await transmit(reader) == b"\x90\x00"
    there.protocol = 0
    assert await failure(reader, VERIFY) is ReturnCode.W_RESET_CARD
    assert await transmit(reader) == b"\x90\x00"
    assert there.commands == [SELECT, SELECT]
    assert len(there.handles) == 1


async def test_a_direct_handle_sends_with_the_protocol_that_it_is_told() -> None:
    pcscd, there, reader = prepared()
    await reader.connect(ShareMode.DIRECT, Protocol.UNDEFINED)
    there.protocol = Protocol.T1
    await transmit(reader)
    assert pcscd.dialled[0].requests[-1].protocol == Protocol.T1  # type: ignore[union-attr]


async def test_a_reset_that_nobody_was_told_of_ends_with_its_card() -> None:
    pcscd, there, reader = await connected()
    pcscd.script[Transmit] = [ReturnCode.W_RESET_CARD]
    there.lock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await transmit(reader)
    there.exchange_card()
    reader.card_gone()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert await transmit(reader) == b"\x90\x00"


async def test_a_reset_by_others_is_told_although_no_new_handle_can_be_had() -> None:
    pcscd, there, reader = await connected()
    there.reset_by_other()
    pcscd.script[Connect] = [ReturnCode.E_SHARING_VIOLATION, ReturnCode.E_SHARING_VIOLATION]
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    assert await failure(reader) is ReturnCode.E_SHARING_VIOLATION
    assert await transmit(reader) == b"\x90\x00"


async def test_a_removed_card_and_the_next_one() -> None:
    _, there, reader = await connected()
    there.remove()
    assert await failure(reader) is ReturnCode.W_REMOVED_CARD
    there.insert()
    assert await failure(reader) is ReturnCode.W_REMOVED_CARD
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    assert await transmit(reader) == b"\x90\x00"
    assert len(there.handles) == 1


# lost connections


async def test_a_lost_connection_fails_what_is_pending_and_is_told() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 5
    asyncio.get_running_loop().call_later(1, pcscd.dialled[0].hang_up)
    assert await failure(reader) is ReturnCode.E_READER_UNAVAILABLE
    assert LOST == [NAME]


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, ReturnCode.F_COMM_ERROR), (ConnectionResetError(104, "reset"), ReturnCode.W_SECURITY_VIOLATION)],
)
async def test_a_connection_closed_instead_of_a_connect_is_a_denial(error: Exception | None, code: ReturnCode) -> None:
    pcscd, there, reader = prepared()
    there.lock()  # so that the connect hangs
    asyncio.get_running_loop().call_later(1, lambda: pcscd.dialled[0].hang_up(error))
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is code
    assert LOST == []
    there.unlock()
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1


async def test_pcscd_out_of_reach() -> None:
    pcscd, _, reader = prepared()
    pcscd.refuse_dial = ConnectionRefusedError(111, "refused")
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE


async def test_no_context_no_connection() -> None:
    pcscd, _, reader = prepared()
    pcscd.script[EstablishContext] = [ReturnCode.E_NO_MEMORY]
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_NO_MEMORY
    await asyncio.sleep(1)
    assert pcscd.connections == []


async def test_close_fails_what_is_pending_quietly() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 5
    asyncio.get_running_loop().call_later(1, reader.close)
    assert await failure(reader) is ReturnCode.E_READER_UNAVAILABLE
    await asyncio.sleep(1)
    assert LOST == []
    assert pcscd.connections == []


async def test_a_reset_whose_handle_cannot_be_renewed_for_want_of_a_connection() -> None:
    pcscd, there, reader = await connected()
    there.reset_by_other()
    pcscd.dialled[0].pcscd.script[Transmit] = [ReturnCode.W_RESET_CARD]
    there.lock()
    pcscd.script[Transmit] = [ReturnCode.W_RESET_CARD]
    asyncio.get_running_loop().call_later(0.5, pcscd.dialled[0].hang_up)
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    there.unlock()
    assert await transmit(reader) == b"\x90\x00"


def test_atr_of_the_fake_is_one() -> None:
    assert ATR[0] == 0x3B


async def test_lock_requests_are_paired() -> None:
    pcscd, there, reader = await connected()
    for _ in range(5):
        await reader.claim()
        await transmit(reader)
        await reader.release()
    await asyncio.sleep(1)
    requests = kinds(pcscd.dialled[0].requests)
    assert requests.count(BeginTransaction) == requests.count(EndTransaction)
    assert (there.owner, there.count) == (0, 0)


async def test_a_lock_that_is_known_to_be_ours_is_asked_for_once() -> None:
    pcscd, _, reader = await connected()
    for _ in range(5):
        await reader.claim()
        await asyncio.sleep(0.001)
        await transmit(reader)
        await transmit(reader)
        await reader.release()
        await asyncio.sleep(0.001)
    await asyncio.sleep(1)
    requests = kinds(pcscd.dialled[0].requests)
    assert requests.count(BeginTransaction) == requests.count(EndTransaction) == 5


async def test_garbage_instead_of_a_response_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 5
    asyncio.get_running_loop().call_later(1, pcscd.dialled[0].to_client.write, b"\xff" * 1_000_000)
    assert await failure(reader) is ReturnCode.E_READER_UNAVAILABLE
    assert LOST == [NAME]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{NAME}: connection closed: pcscd does not speak" in caplog.text


async def test_garbage_instead_of_a_context_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pcscd, _, reader = prepared()
    pcscd.greet = lambda connection: asyncio.get_running_loop().call_soon(connection.to_client.write, b"\xff" * 100)  # type: ignore[assignment]
    with pytest.raises(PcscError) as caught:
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
    assert [record.levelname for record in caplog.records] == ["WARNING"]
