"""A guest or host that has never heard of memory: neither end finds anything wrong, and nothing is believed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cardferry.link import messages as m
from cardferry.link.guest_session import GuestSession
from cardferry.link.host_session import HostSession
from tests.link.desk import Desk
from tests.link.model_card import ModelCard, get, select
from tests.link.test_believing import connect, learn, read
from tests.link.test_round_trips import DELAY, round_trips

#: Messages that have got more fields with memory, and how many they had before.
BEFORE: dict[Any, int] = {m.Welcome: 4, m.Transmit: 4, m.Answer: 5}
NOW = [
    m.Welcome(1, 2, 3, 4, memory=True),
    m.Transmit(0, 1, b"\0\xa4\4\0", 2, b"12345678"),
    m.Answer(1, 0, b"\x90\0", 0, None, 7, 8, [1, 2, 3, 4]),
]


def older(kind: type[Any]) -> type[Any]:
    """The message as it was."""
    fields = msgspec.structs.fields(kind)[: BEFORE[kind]]
    tag = kind.__struct_config__.tag
    return msgspec.defstruct("Older", [(one.name, one.type) for one in fields], array_like=True, tag=tag)


@pytest.mark.parametrize("message", NOW, ids=lambda one: type(one).__name__)
def test_an_older_build_reads_what_is_said_now(message: Any) -> None:
    read_as = msgspec.msgpack.decode(m.encode(message), type=older(type(message)))
    names = [one.name for one in msgspec.structs.fields(type(read_as))]
    assert [getattr(read_as, name) for name in names] == [getattr(message, name) for name in names]


@pytest.mark.parametrize("message", NOW, ids=lambda one: type(one).__name__)
def test_what_an_older_build_says_is_read(message: Any) -> None:
    was = older(type(message))
    said = was(*[getattr(message, one.name) for one in msgspec.structs.fields(was)])
    decode = m.decode_from_guest if isinstance(message, m.Transmit) else m.decode_from_host
    heard: Any = decode(msgspec.msgpack.encode(said))
    assert type(heard) is type(message)
    new = msgspec.structs.fields(type(message))[BEFORE[type(message)] :]
    assert not any(getattr(heard, one.name) for one in new)


@pytest.mark.parametrize("which", ["guest", "host"])
async def test_an_older_build_at_the_other_end(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if which == "guest":
        welcomed = GuestSession._welcomed

        def as_before(session: GuestSession, message: m.Welcome) -> None:
            welcomed(session, m.Welcome(message.contexts, message.handles, message.calls, message.call_bytes))

        monkeypatch.setitem(GuestSession._HANDLERS, m.Welcome, as_before)
    else:
        for one in (m.Remember,):
            monkeypatch.delitem(HostSession._HANDLERS, one)
    flow = (select(0), get(1), get(2))
    async with Desk(ModelCard(), delay=DELAY, remember=which == "guest") as desk:
        guest = await desk.guest()
        await learn(guest, *flow)
        card = await connect(guest)
        with round_trips(len(flow)):
            assert (await read(card, *flow))[1] == b"\0\1\0\x90\0"
        assert guest.counters.believed == guest.counters.held == 0
        assert guest.status.sessions == 1
