"""The protocol of virtual machines' card readers, both sides. Layout: libcacard's ``vscard_common.h``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.vscard import (
    MAX_MESSAGE,
    MAX_PAYLOAD,
    NO_READER,
    TO_CARD,
    TO_MACHINE,
    ErrorCode,
    Kind,
    Message,
    MessageStream,
)
from tests.wire.pcsclite.peers import pieces

#: As QEMU sends it: kind 1, no reader, 12 bytes; "VSCD", version 0.0.2, no capabilities.
INIT = bytes.fromhex("00000001 ffffffff 0000000c 56534344 00000002 00000000")
ATR = bytes.fromhex("3b80800101")


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Message.init(), INIT.hex()),
        (Message.error(ErrorCode.SUCCESS), "00000002 00000000 00000004 00000000"),
        (Message.error(ErrorCode.CANNOT_ADD_MORE_READERS, NO_READER), "00000002 ffffffff 00000004 00000002"),
        (Message(Kind.READER_ADD), "00000003 00000000 00000000"),
        (Message(Kind.READER_REMOVE), "00000004 00000000 00000000"),
        (Message(Kind.ATR, ATR), "00000005 00000000 00000005 3b80800101"),
        (Message(Kind.CARD_REMOVE), "00000006 00000000 00000000"),
        (Message(Kind.APDU, b"\x90\x00"), "00000007 00000000 00000002 9000"),
        (Message(Kind.FLUSH), "00000008 00000000 00000000"),
        (Message(Kind.FLUSH_COMPLETE), "00000009 00000000 00000000"),
    ],
)
def test_messages(message: Message, data: str) -> None:
    raw = bytes.fromhex(data)
    assert message.encoded() == raw
    for allowed in (TO_CARD, TO_MACHINE):
        if message.kind in allowed:
            assert MessageStream(allowed).receive(raw) == [message]


def test_number_of_an_error() -> None:
    assert Message.error(ErrorCode.CARD_ALREADY_INSERTED).number == 3


def test_more_capabilities_are_for_later_versions() -> None:
    raw = bytes.fromhex("00000001 ffffffff 00000010 56534344 00000003 00000001 00000002")
    [message] = MessageStream(TO_CARD).receive(raw)
    assert message.kind is Kind.INIT


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("00000000 00000000 00000000", "unknown kind of message 0"),
        ("0000000a 00000000 00000000", "unknown kind of message 10"),
        ("00000005 00000000 00000005 3b80800101", "ATR is for the other side"),
        ("00000007 00000000 00000000", "an empty command"),
        ("00000007 00000000 0000fff5", "message of 65525 bytes"),
        ("00000007 00000000 ffffffff", "message of 4294967295 bytes"),
        ("00000001 ffffffff 00000008 56534344 00000002", "greeting"),
        ("00000001 ffffffff 0000000c 58534344 00000002 00000000", "greeting"),
        ("00000002 00000000 00000003 000000", "an error of 3 bytes"),
        ("00000002 00000000 00000000", "an error of 0 bytes"),
    ],
)
def test_what_no_machine_sends(data: str, words: str) -> None:
    stream = MessageStream(TO_CARD)
    with pytest.raises(WireError, match=words) as caught:
        stream.receive(INIT + bytes.fromhex(data))
    assert caught.value.received == (Message.init(),)
    assert stream.error is caught.value
    with pytest.raises(WireError, match=words) as caught:
        stream.receive(INIT)
    assert caught.value.received == ()


@pytest.mark.parametrize("size", [0, 1, 34])
def test_what_no_card_sends(size: int) -> None:
    with pytest.raises(WireError, match=f"an answer to reset of {size} bytes"):
        MessageStream(TO_MACHINE).receive(Message(Kind.ATR, bytes(size)).encoded())
    with pytest.raises(WireError, match="FLUSH is for the other side"):
        MessageStream(TO_MACHINE).receive(Message(Kind.FLUSH).encoded())


def test_the_longest_message_is_what_qemu_takes() -> None:
    longest = Message(Kind.APDU, bytes(MAX_PAYLOAD))
    assert len(longest.encoded()) == MAX_MESSAGE
    assert MessageStream(TO_CARD).receive(longest.encoded()) == [longest]
    with pytest.raises(ValueError, match=f"{MAX_PAYLOAD + 1} bytes"):
        Message(Kind.APDU, bytes(MAX_PAYLOAD + 1)).encoded()


messages = st.one_of(
    st.just(Message.init()),
    st.builds(Message, st.just(Kind.APDU), st.binary(min_size=1, max_size=300)),
    st.builds(Message.error, st.sampled_from(ErrorCode)),
    st.builds(Message, st.just(Kind.FLUSH)),
)


@given(st.lists(messages, max_size=8), st.integers())
def test_however_it_is_cut(sent: list[Message], seed: int) -> None:
    stream = MessageStream(TO_CARD)
    data = b"".join(message.encoded() for message in sent)
    received = [message for piece in pieces(data, seed) for message in stream.receive(piece)]
    assert received == sent
    assert stream.buffered == 0


@given(st.binary(max_size=200), st.sampled_from([TO_CARD, TO_MACHINE]), st.integers())
def test_any_bytes_give_messages_or_the_one_error(data: bytes, allowed: frozenset[Kind], seed: int) -> None:
    whole, cut = MessageStream(allowed), MessageStream(allowed)
    assert _outcome(whole, [data]) == _outcome(cut, pieces(data, seed))
    assert whole.buffered < MAX_MESSAGE


@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=40)), max_size=6), st.integers())
def test_likewise_bytes_that_look_like_messages(parts: list[tuple[int, bytes]], seed: int) -> None:
    data = b"".join(kind.to_bytes(4, "big") + bytes(4) + len(rest).to_bytes(4, "big") + rest for kind, rest in parts)
    for allowed in (TO_CARD, TO_MACHINE):
        assert _outcome(MessageStream(allowed), [data]) == _outcome(MessageStream(allowed), pieces(data, seed))


def _outcome(stream: MessageStream, data: object) -> tuple[list[object], str]:
    received: list[object] = []
    for piece in data:  # type: ignore[attr-defined]
        try:
            received += stream.receive(piece)
        except WireError as error:
            received += error.received
            return received, str(error)
    return received, ""
