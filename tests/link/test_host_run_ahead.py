"""What the host foresees: the pure machine, with a card that answers as ISO 7816-4 says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.link.host_run_ahead import AheadLimits, RunAhead
from tests.link.cards import FileCard

CONTENT = bytes(number % 251 for number in range(1000))
GET_DATA = bytes.fromhex("00ca7f6600")
SELECT = bytes.fromhex("00a4040000")


def get_response(size: int, cla: int = 0) -> bytes:
    return bytes((cla, 0xC0, 0, 0, size & 0xFF))


def read(offset: int, size: int, cla: int = 0) -> bytes:
    return bytes((cla, 0xB0, offset >> 8, offset & 0xFF, size & 0xFF))


class HostEnd:
    """What the host does with the machine; `unused` is what the guest has got ahead."""

    def __init__(self, card: FileCard, *, transaction: bool = True, worthwhile: bool = True) -> None:
        self.card = card
        self.machine = RunAhead()
        self.unused: list[tuple[bytes, bytes]] = []
        self.transaction = transaction
        self.worthwhile = worthwhile
        self.asked = 0
        self.used = 0

    def program(self, command: bytes) -> bytes:
        """The program sends a command: served ahead if it can be."""
        if self.unused and self.unused[0][0] == command:
            self.used += 1
            return self.unused.pop(0)[1]
        self.asked += 1
        self.machine.used(self.used)
        self.used = 0
        response = self.machine.arrives(command)
        if response is None:
            response = self.card.process(command)
        following = self.machine.answered(command, response, transaction=self.transaction, worthwhile=self.worthwhile)
        self.unused = []
        while following is not None:
            came = self.card.process(following)
            self.unused.append((following, came))
            following = self.machine.ran(came)
        return response


def fetch(host: HostEnd, first: bytes, *, le_zero: bool = False) -> bytes:
    """A program that follows ``61xx``."""
    response = host.program(first)
    whole = response[:-2]
    while response[-2] == 0x61:
        response = host.program(get_response(0 if le_zero else response[-1], first[0]))
        whole += response[:-2]
    assert response[-2:] == b"\x90\0", response
    return whole


@pytest.mark.parametrize("transaction", [True, False])
def test_a_response_is_fetched_to_its_end(transaction: bool) -> None:
    host = HostEnd(FileCard(CONTENT), transaction=transaction, worthwhile=False)
    assert fetch(host, GET_DATA) == CONTENT
    assert host.asked == 1
    host.machine.used(host.used)
    assert (host.machine.hits, host.machine.waste) == (3, 0)


def test_a_program_that_asks_for_all_there_is_gets_it_too() -> None:
    """Le 00 after ``61xx``: the first time the host stands in for the card, then it has learnt."""
    host = HostEnd(FileCard(CONTENT[:300]))
    assert fetch(host, GET_DATA, le_zero=True) == CONTENT[:300]
    assert host.asked == 2
    assert fetch(host, GET_DATA, le_zero=True) == CONTENT[:300]
    assert host.asked == 3
    assert 0xC0 in {command[1] for command in host.card.seen}


@given(st.lists(st.integers(1, 256), min_size=1, max_size=40), st.integers(1, 1000), st.integers(1, 256))
def test_whatever_lengths_a_program_asks_for_it_gets_every_byte_once(
    lengths: list[int], size: int, portion: int
) -> None:
    content = CONTENT[:size]
    host = HostEnd(FileCard(content, portion))
    response = host.program(GET_DATA)
    whole = response[:-2]
    for length in lengths * 1000:
        if response[-2] != 0x61:
            break
        response = host.program(get_response(length))
        whole += response[:-2]
        assert len(response) - 2 <= length
    assert response[-2:] == b"\x90\0"
    assert whole == content


def test_another_command_drops_the_rest() -> None:
    host = HostEnd(FileCard(CONTENT))
    host.program(GET_DATA)
    assert len(host.unused) == 3
    host.program(SELECT)
    assert host.machine.waste == 3
    assert host.program(get_response(0)) == b"\x69\x85"


@pytest.mark.parametrize(
    "command",
    ["0cca7f6600", "04ca7f6600", "08ca7f6600", "60ca7f6600", "10ca7f6600", "80ca7f6600", "b0ca7f6600", "20ca7f6600"],
)
def test_never_with_secure_messaging_in_chains_or_in_foreign_classes(command: str) -> None:
    machine = RunAhead()
    raw = bytes.fromhex(command)
    assert machine.arrives(raw) is None
    assert machine.answered(raw, b"\x61\x10", transaction=True, worthwhile=True) is None


@pytest.mark.parametrize(("cla", "expected"), [(0x00, 0x00), (0x01, 0x01), (0x03, 0x03), (0x40, 0x40), (0x4F, 0x4F)])
def test_the_rest_is_asked_for_on_the_same_channel(cla: int, expected: int) -> None:
    machine = RunAhead()
    raw = bytes((cla,)) + GET_DATA[1:]
    machine.arrives(raw)
    following = machine.answered(raw, b"\x61\x10", transaction=True, worthwhile=True)
    assert following == get_response(0x10, expected)


def test_a_program_that_does_not_want_the_rest_is_not_slowed_down_by_it() -> None:
    host = HostEnd(FileCard(CONTENT), worthwhile=False)
    for _ in range(5):
        host.program(GET_DATA)
        host.program(SELECT)
    assert host.card.count == 10 + 3
    host = HostEnd(FileCard(CONTENT))
    for _ in range(5):
        host.program(GET_DATA)
        host.program(SELECT)
    assert host.card.count == 10 + 5 * 3


def test_data_of_another_channel_is_not_handed_out() -> None:
    host = HostEnd(FileCard(CONTENT))
    host.program(GET_DATA)
    host.card._pending = b""
    assert host.program(get_response(5, cla=1)) == b"\x69\x85"


def test_reading_goes_on_inside_a_transaction() -> None:
    host = HostEnd(FileCard(CONTENT))
    whole = b""
    for offset in range(0, 1000, 200):
        whole += host.program(read(offset, 200))[:-2]
    assert whole == CONTENT
    assert host.asked == 1


def test_reading_stops_where_select_said_the_file_ends() -> None:
    host = HostEnd(FileCard(CONTENT[:700], tells_size=True))
    host.program(SELECT)
    whole = b""
    for offset, size in ((0, 256), (256, 256), (512, 188)):
        whole += host.program(read(offset, size))[:-2]
    assert whole == CONTENT[:700]
    assert host.asked == 2
    assert host.card.seen[1:] == [read(0, 256), read(256, 256), read(512, 188)]


def test_reading_stops_at_the_first_short_response() -> None:
    host = HostEnd(FileCard(CONTENT[:300]))
    host.program(read(0, 256))
    assert host.card.seen == [read(0, 256), read(256, 256)]


@pytest.mark.parametrize(("transaction", "worthwhile"), [(False, True), (True, False), (False, False)])
def test_reading_does_not_go_on_otherwise(transaction: bool, worthwhile: bool) -> None:
    host = HostEnd(FileCard(CONTENT), transaction=transaction, worthwhile=worthwhile)
    host.program(read(0, 100))
    assert host.unused == []


@pytest.mark.parametrize(
    "command",
    ["00b0850064", "00b1000064", "0cb0000064", "80b0000064", "00b000000000", "00b00000"],
    ids=[
        "short file identifier",
        "odd instruction",
        "secure messaging",
        "foreign class",
        "extended, no length",
        "case 1",
    ],
)
def test_other_ways_of_reading_are_not_foreseen(command: str) -> None:
    machine = RunAhead()
    raw = bytes.fromhex(command)
    machine.arrives(raw)
    assert machine.answered(raw, bytes(100) + b"\x90\0", transaction=True, worthwhile=True) is None


def test_reading_ends_at_the_last_offset_there_is() -> None:
    machine = RunAhead()
    raw = read(0x7F80, 0x80)
    assert machine.answered(raw, bytes(0x80) + b"\x90\0", transaction=True, worthwhile=True) is None


def test_extended_reading_is_foreseen_in_its_own_form() -> None:
    machine = RunAhead()
    raw = bytes.fromhex("00b00000000200")
    following = machine.answered(raw, bytes(512) + b"\x90\0", transaction=True, worthwhile=True)
    assert following == bytes.fromhex("00b00200000200")


def test_running_ahead_has_its_limits() -> None:
    machine = RunAhead(AheadLimits(responses=3, data=10_000))
    following = machine.answered(read(0, 100), bytes(100) + b"\x90\0", transaction=True, worthwhile=True)
    count = 0
    while following is not None:
        count += 1
        following = machine.ran(bytes(100) + b"\x90\0")
    assert count == 3
    machine = RunAhead(AheadLimits(responses=100, data=1000))
    following = machine.answered(read(0, 100), bytes(100) + b"\x90\0", transaction=True, worthwhile=True)
    count = 0
    while following is not None:
        count += 1
        following = machine.ran(bytes(100) + b"\x90\0")
    assert count == 10


def test_a_reset_forgets_everything() -> None:
    host = HostEnd(FileCard(CONTENT))
    host.program(GET_DATA)
    host.machine.forget()
    host.card._pending = b""
    host.unused = []
    assert host.program(get_response(0)) == b"\x69\x85"


def test_what_was_given_up_is_not_counted() -> None:
    machine = RunAhead()
    machine.answered(GET_DATA, b"\x61\x10", transaction=True, worthwhile=True)
    machine.gave_up()
    assert machine.ran(b"\x90\0") is None
    machine.stop()
    assert (machine.hits, machine.waste) == (0, 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arrives"), st.binary(max_size=12)),
            st.tuples(st.just("answered"), st.binary(max_size=40)),
            st.tuples(st.just("ran"), st.binary(max_size=40)),
            st.tuples(st.just("used"), st.integers(0, 5)),
            st.tuples(st.sampled_from(["stop", "forget", "gave_up"]), st.none()),
        ),
        max_size=30,
    )
)
def test_nothing_that_programs_and_cards_say_can_break_it(steps: list[tuple[str, object]]) -> None:
    machine = RunAhead()
    command = b""
    for step, value in steps:
        match step, value:
            case "arrives", bytes(raw):
                command = raw
                machine.arrives(raw)
            case "answered", bytes(response):
                machine.answered(command, response, transaction=True, worthwhile=True)
            case "ran", bytes(response):
                machine.ran(response)
            case "used", int(count):
                machine.used(count)
            case name, _:
                getattr(machine, name)()
    assert machine.hits >= 0
    assert machine.waste >= 0


@pytest.mark.parametrize(
    ("template", "size"),
    [
        ("6f0480020200", 512),
        ("62048002012c", 300),
        ("6f04810202bc", 700),
        ("6f08810203e880020100", 256),
        ("6f81048002 0200", 512),
        ("6f820004 80020200", 512),
        ("6f08bf0c0100 80020200", 512),
        ("6f0480020200 0000", 512),
        ("6f04", None),
        ("6f0480020200"[:-2], None),
        ("7f490480020200", None),
        ("6f80", None),
        ("", None),
        ("840e315041592e5359532e4444463031", None),
    ],
)
def test_where_select_says_that_a_file_ends(template: str, size: int | None) -> None:
    machine = RunAhead()
    machine.arrives(SELECT)
    machine.answered(SELECT, bytes.fromhex(template) + b"\x90\0", transaction=True, worthwhile=True)
    assert machine._file_size == size


def test_where_a_fetched_template_says_that_a_file_ends() -> None:
    machine = RunAhead()
    machine.arrives(SELECT)
    following = machine.answered(SELECT, b"\x61\x06", transaction=True, worthwhile=True)
    assert following == get_response(6)
    machine.ran(bytes.fromhex("6f0480020200 9000"))
    assert machine._file_size == 512
