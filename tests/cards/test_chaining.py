"""Commands in pieces and responses in pieces (ISO 7816-4:2020, 5.3.3 and 5.3.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.cards.chaining import CommandChain, ResponseChain
from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import CommandApdu, ResponseApdu, StatusWord

GET_RESPONSE = CommandApdu(0, 0xC0, 0, 0, ne=256)


def pieces(data: bytes, sizes: list[int], ne: int = 0) -> list[CommandApdu]:
    """The data cut into pieces of these sizes and a last one."""
    commands = []
    for size in sizes:
        commands.append(CommandApdu(0x10, 0xDB, 0x3F, 0xFF, data[:size]))
        data = data[size:]
    return [*commands, CommandApdu(0x00, 0xDB, 0x3F, 0xFF, data, ne)]


@given(st.binary(max_size=2000), st.lists(st.integers(0, 600), max_size=5), st.integers(0, 65536))
def test_pieces_of_any_size_make_the_whole(data: bytes, sizes: list[int], ne: int) -> None:
    chain = CommandChain(limit=2000)
    *first, last = pieces(data, sizes, ne)
    for piece in first:
        assert chain.preview(piece) is None
        assert chain.add(piece) is None
    preview = chain.preview(last)
    whole = chain.add(last)
    assert whole is not None
    assert preview == whole
    assert (whole.cla, whole.data, whole.ne) == (0, data, ne)
    # and nothing is left of it
    alone = chain.add(last)
    assert alone is not None
    assert alone.data == last.data


@pytest.mark.parametrize("header", [(0xCB, 0x3F, 0xFF), (0xDB, 0x3F, 0xFE), (0xDB, 0x3E, 0xFF)])
def test_another_command_ends_the_chain(header: tuple[int, int, int]) -> None:
    chain = CommandChain(limit=100)
    assert chain.add(CommandApdu(0x10, 0xDB, 0x3F, 0xFF, b"lost")) is None
    other = CommandApdu(0, *header, b"mine")
    assert chain.preview(other) == other
    assert chain.add(other) == other
    last = CommandApdu(0, 0xDB, 0x3F, 0xFF, b"last")
    assert chain.add(last) == last


def test_clear_ends_the_chain() -> None:
    chain = CommandChain(limit=100)
    assert chain.add(CommandApdu(0x10, 0xDB, 0x3F, 0xFF, b"lost")) is None
    chain.clear()
    last = CommandApdu(0, 0xDB, 0x3F, 0xFF, b"last")
    assert chain.add(last) == last


def test_a_chain_has_a_limit() -> None:
    chain = CommandChain(limit=300)
    for size in (255, 45):
        assert chain.add(CommandApdu(0x10, 0xDB, 0x3F, 0xFF, bytes(size))) is None
    one_more = CommandApdu(0x00, 0xDB, 0x3F, 0xFF, b"x")
    assert chain.preview(one_more) == one_more
    with pytest.raises(StatusError) as refused:
        chain.add(one_more)
    assert refused.value.status == StatusWord.NOT_ENOUGH_MEMORY
    assert chain.add(one_more) == one_more


@given(st.binary(max_size=3000), st.lists(st.integers(1, 900), min_size=1, max_size=4))
def test_responses_are_fetched_in_any_sizes(data: bytes, sizes: list[int]) -> None:
    chain = ResponseChain()
    response = ResponseApdu.parse(chain.first(data, CommandApdu(0, 0xCB, 0, 0, ne=sizes[0])))
    collected = response.data
    turn = 0
    while (remaining := response.status.remaining) is not None:
        assert len(response.data) == sizes[turn % len(sizes)]
        assert remaining == min(256, len(data) - len(collected))
        turn += 1
        command = CommandApdu(0, 0xC0, 0, 0, ne=sizes[turn % len(sizes)])
        response = ResponseApdu.parse(chain.next(command))
        collected += response.data
    assert response.status == StatusWord.SUCCESS
    assert collected == data
    with pytest.raises(StatusError) as refused:
        chain.next(GET_RESPONSE)
    assert refused.value.status == StatusWord.CONDITIONS_NOT_SATISFIED


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (CommandApdu(0, 0xCB, 0, 0, b"x"), 256),
        (CommandApdu(0, 0xCB, 0, 0), 256),
        (CommandApdu(0, 0xCB, 0, 0, bytes(256)), 65536),
    ],
)
def test_without_le_as_much_as_could_have_been_asked_for(command: CommandApdu, size: int) -> None:
    response = ResponseApdu.parse(ResponseChain().first(bytes(70000), command))
    assert len(response.data) == size
    assert response.status == 0x6100


def test_what_was_not_fetched_is_forgotten() -> None:
    chain = ResponseChain()
    chain.first(bytes(300), CommandApdu(0, 0xCB, 0, 0, ne=256))
    chain.clear()
    with pytest.raises(StatusError):
        chain.next(GET_RESPONSE)
