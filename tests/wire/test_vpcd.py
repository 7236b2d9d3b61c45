"""The vpcd protocol, both roles. Layout: virtualsmartcard's ``vpcd.c``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.vpcd import MAX_PAYLOAD, CardSide, Control, ReaderSide
from tests.wire.pcsclite.peers import pieces


@pytest.mark.parametrize(
    ("control", "data", "answers"),
    [
        (Control.POWER_OFF, "000100", 0),
        (Control.POWER_ON, "000101", 0),
        (Control.RESET, "000102", 0),
        (Control.GET_ATR, "000104", 1),
    ],
)
def test_controls(control: Control, data: str, answers: int) -> None:
    reader = ReaderSide()
    assert reader.control(control) == bytes.fromhex(data)
    assert reader.pending == answers
    assert CardSide().receive(bytes.fromhex(data)) == [control]


def test_atr_and_apdu() -> None:
    """``3b 80 80 01 01`` and SELECT MF, as they go over the wire."""
    reader, card = ReaderSide(), CardSide()
    assert reader.control(Control.GET_ATR) + reader.command(bytes.fromhex("00a40000023f00")) == bytes.fromhex(
        "000104 0007 00a40000023f00"
    )
    assert card.answer(bytes.fromhex("3b80800101")) == bytes.fromhex("0005 3b80800101")
    assert card.receive(bytes.fromhex("000104 0007 00a40000023f00")) == [
        Control.GET_ATR,
        bytes.fromhex("00a40000023f00"),
    ]
    assert reader.pending == 2
    assert reader.receive(bytes.fromhex("0005 3b80800101 0002 9000")) == [bytes.fromhex("3b80800101"), b"\x90\x00"]
    assert reader.pending == 0


@pytest.mark.parametrize("apdu", [b"", b"\x00", bytes(MAX_PAYLOAD + 1)])
def test_apdus_that_do_not_fit(apdu: bytes) -> None:
    """One byte would be taken for a control: power off, in this case."""
    reader = ReaderSide()
    with pytest.raises(ValueError, match=f"{len(apdu)} bytes"):
        reader.command(apdu)
    assert reader.pending == 0


@pytest.mark.parametrize("answer", [b"", bytes(MAX_PAYLOAD + 1)])
def test_answers_that_do_not_fit(answer: bytes) -> None:
    with pytest.raises(ValueError, match=f"{len(answer)} bytes"):
        CardSide().answer(answer)


@pytest.mark.parametrize("data", ["0000", "000103", "0001ff"])
def test_what_no_reader_sends(data: str) -> None:
    card = CardSide()
    with pytest.raises(WireError, match=r"empty|unknown") as caught:
        card.receive(bytes.fromhex("000104 00020102" + data + "000102"))
    assert caught.value.received == (Control.GET_ATR, b"\x01\x02")
    assert card.error is caught.value
    assert not card.buffered
    with pytest.raises(WireError, match=r"empty|unknown") as caught:
        card.receive(b"")
    assert caught.value.received == ()


def test_what_no_card_sends() -> None:
    reader = ReaderSide()
    with pytest.raises(WireError, match="answer to nothing"):
        reader.receive(bytes.fromhex("00029000"))
    reader = ReaderSide()
    reader.control(Control.GET_ATR)
    reader.control(Control.GET_ATR)
    with pytest.raises(WireError, match="empty") as caught:
        reader.receive(bytes.fromhex("00013b 0000"))
    assert caught.value.received == (b"\x3b",)
    assert reader.error is caught.value


payloads = st.one_of(st.sampled_from(Control), st.binary(min_size=2, max_size=300))


@given(st.lists(payloads, max_size=10), st.integers(0, 1000))
def test_everything_comes_back(sent: list[Control | bytes], seed: int) -> None:
    reader, card = ReaderSide(), CardSide()
    stream = b"".join([reader.control(item) if isinstance(item, Control) else reader.command(item) for item in sent])
    assert [item for piece in pieces(stream, seed) for item in card.receive(piece)] == sent
    wanted = [item for item in sent if item is Control.GET_ATR or isinstance(item, bytes)]
    assert reader.pending == len(wanted)
    answers = [bytes((number + 1,)) * (number + 1) for number in range(len(wanted))]
    stream = b"".join(map(card.answer, answers))
    assert [item for byte in stream for item in reader.receive(bytes((byte,)))] == answers
    assert not reader.pending
    assert not reader.buffered


def test_the_longest_message() -> None:
    reader, card = ReaderSide(), CardSide()
    message = reader.command(bytes(MAX_PAYLOAD))
    assert card.receive(message[:-1]) == []
    assert card.buffered == MAX_PAYLOAD - 1
    assert card.receive(message[-1:]) == [bytes(MAX_PAYLOAD)]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_anything_makes_values_or_the_one_error(stream: list[bytes]) -> None:
    def fed(stream: list[bytes]) -> tuple[list[object], str | None]:
        card = CardSide()
        received: list[object] = []
        for piece in stream:
            try:
                received += card.receive(piece)
            except WireError as error:
                return [*received, *error.received], str(error)
            assert card.buffered < MAX_PAYLOAD
        return received, None

    joined = b"".join(stream)
    assert fed(stream) == fed([joined]) == fed([bytes((byte,)) for byte in joined])
