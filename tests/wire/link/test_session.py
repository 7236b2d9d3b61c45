"""The session machine: each rule by itself."""

from __future__ import annotations

import pytest

from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import HEADER_SIZE, Frame, FrameReader, Kind, encode
from cardferry.wire.link.greeting import Bye, Hello, Reason, Role, VersionError
from cardferry.wire.link.session import (
    Bounds,
    Due,
    Phase,
    Session,
    SessionOverflowError,
    Timing,
)

IDENTITY = bytes(range(16))
TIMING = Timing()


def session(role: Role, now: float = 0.0, bounds: Bounds | None = None, timing: Timing = TIMING) -> Session:
    return Session(role, IDENTITY, now, timing=timing, bounds=bounds, software=role.name)


def exchange(one: Session, two: Session, now: float) -> tuple[list[bytes], list[bytes]]:
    """Carry everything over a pipe that works; return what both have received."""
    got_one: list[bytes] = []
    got_two: list[bytes] = []
    while True:
        out, back = one.take(), two.take()
        if not out and not back:
            return got_one, got_two
        got_two += two.receive(out, now) if out else []
        got_one += one.receive(back, now) if back else []


def connected(bounds: Bounds | None = None) -> tuple[Session, Session]:
    guest, host = session(Role.GUEST, bounds=bounds), session(Role.HOST, bounds=bounds)
    join(guest, host, 0.0)
    return guest, host


def join(guest: Session, host: Session, now: float) -> tuple[list[bytes], list[bytes]]:
    guest.attach(now)
    host.attach(now)
    return exchange(guest, host, now)


def part(*sessions: Session) -> None:
    for one in sessions:
        one.detach()


def kinds(data: bytes) -> list[Kind]:
    return [frame.kind for frame in FrameReader().receive(data)]


def test_messages_arrive_in_order() -> None:
    guest, host = connected()
    for number in range(5):
        guest.send(b"g%d" % number)
        host.send(b"h%d" % number)
    assert exchange(guest, host, 0.0) == ([b"h%d" % n for n in range(5)], [b"g%d" % n for n in range(5)])
    assert host.peer is not None
    assert (host.peer.software, guest.version) == ("GUEST", 1)


def test_messages_from_before_the_first_pipe_are_kept() -> None:
    guest, host = session(Role.GUEST), session(Role.HOST)
    guest.send(b"early")
    assert guest.take() == b""
    assert join(guest, host, 0.0) == ([], [b"early"])


def test_what_a_broken_pipe_swallowed_is_sent_again_and_what_it_carried_is_not() -> None:
    guest, host = connected()
    guest.send(b"one")
    host.receive(guest.take(), 0.0)
    guest.send(b"two")
    guest.take()
    part(guest, host)
    guest.send(b"three")
    assert guest.kept[0] == 3
    assert join(guest, host, 1.0) == ([], [b"two", b"three"])
    assert (guest.repeated, guest.resumes, host.resumes) == (1, 1, 1)


def test_a_frame_that_comes_twice_is_dropped() -> None:
    guest, host = connected()
    guest.send(b"one")
    data = guest.take()
    assert host.receive(data, 0.0) == [b"one"]
    assert host.receive(data, 0.0) == []
    assert host.duplicates == 1


def test_a_gap_is_a_breach() -> None:
    _, host = connected()
    with pytest.raises(WireError, match="came after"):
        host.receive(encode(Kind.DATA, 2, 0, b"two"), 0.0)


def test_acknowledgements_ride_on_what_travels_anyway() -> None:
    guest, host = connected()
    guest.send(b"question")
    host.receive(guest.take(), 0.0)
    host.send(b"answer")
    data = host.take()
    assert kinds(data) == [Kind.DATA]
    guest.receive(data, 0.0)
    assert guest.kept == (0, 0)


def test_acknowledgements_go_alone_after_a_while() -> None:
    guest, host = connected()
    guest.send(b"question")
    host.receive(guest.take(), 1.0)
    assert host.deadline == 1.0 + TIMING.ack_delay
    assert host.tick(1.0) is Due.NOTHING
    assert host.take() == b""
    host.tick(1.0 + TIMING.ack_delay)
    data = host.take()
    assert kinds(data) == [Kind.ACK]
    guest.receive(data, 1.1)
    assert guest.kept == (0, 0)
    assert host.deadline == 1.0 + TIMING.silence


@pytest.mark.parametrize(("count", "size"), [(64, 1), (5, 60_000)])
def test_many_messages_are_acknowledged_at_once(count: int, size: int) -> None:
    guest, host = connected()
    for _ in range(count):
        guest.send(bytes(size))
    while data := guest.take():
        host.receive(data, 0.0)
    assert kinds(host.take())[:1] == [Kind.ACK]


def test_a_pong_does_not_take_an_acknowledgement_along_that_it_does_not_have() -> None:
    guest, host = connected()
    host.receive(encode(Kind.PING, 0, 0, bytes(8)), 0.0)
    guest.send(b"question")
    host.receive(guest.take(), 0.0)
    guest.receive(host.take(), 0.0)
    assert guest.kept == (0, 0)


@pytest.mark.parametrize("number", [1, 2**63])
def test_nothing_is_acknowledged_that_was_not_sent(number: int) -> None:
    guest, _ = connected()
    guest.send(b"kept back")
    with pytest.raises(WireError, match="was the last one sent"):
        guest.receive(encode(Kind.ACK, 0, number), 0.0)


def test_acknowledgements_do_not_go_back() -> None:
    guest, host = connected()
    for _ in range(2):
        guest.send(b"x")
    exchange(guest, host, 0.0)
    guest.receive(encode(Kind.ACK, 0, 2), 0.0)
    with pytest.raises(WireError, match="after frame"):
        guest.receive(encode(Kind.ACK, 0, 1), 0.0)


def test_a_resume_point_that_was_given_up_already_is_a_breach() -> None:
    guest, host = connected()
    guest.send(b"x")
    exchange(guest, host, 0.0)
    guest.receive(encode(Kind.ACK, 0, 1), 0.0)
    part(guest, host)
    guest.attach(0.0)
    behind = Hello(Role.HOST, IDENTITY, True, 0, 10000)
    with pytest.raises(WireError, match="after frame"):
        guest.receive(encode(Kind.HELLO, 0, 0, behind.encode()), 0.0)


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        (Hello(Role.GUEST, IDENTITY, False, 0, 1), "guest, too"),
        (Hello(Role.HOST, bytes(16), False, 0, 1), "another session"),
        (Hello(Role.HOST, IDENTITY, False, 1, 1), "last one sent"),
        (Hello(Role.HOST, IDENTITY, False, 0, 1, 9, 8), "speaks version"),
    ],
)
def test_hellos_that_do_not_fit(hello: Hello, error: str) -> None:
    guest = session(Role.GUEST)
    guest.attach(0.0)
    with pytest.raises(WireError, match=error):
        guest.receive(encode(Kind.HELLO, 0, 0, hello.encode()), 0.0)


def test_a_version_is_for_the_whole_session() -> None:
    guest, host = connected()
    guest.version = 2
    part(guest, host)
    guest.attach(0.0)
    host.attach(0.0)
    with pytest.raises(WireError, match="began with version"):
        guest.receive(host.take(), 0.0)
    assert issubclass(VersionError, WireError)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.ACK, Kind.PING, Kind.PONG])
def test_nothing_comes_before_the_hello(kind: Kind) -> None:
    guest = session(Role.GUEST)
    guest.attach(0.0)
    payload = bytes(8) if kind in (Kind.PING, Kind.PONG) else b""
    with pytest.raises(WireError, match="does not belong here"):
        guest.receive(encode(kind, int(kind is Kind.DATA), 0, payload), 0.0)


def test_a_second_hello_is_a_breach() -> None:
    guest, host = connected()
    with pytest.raises(WireError, match="does not belong here"):
        guest.receive(encode(Kind.HELLO, 0, 0, host.hello.encode()), 0.0)


def test_silence_is_answered_with_a_ping_and_then_given_up() -> None:
    guest, host = connected()
    assert guest.deadline == TIMING.silence
    assert guest.tick(TIMING.silence) is Due.NOTHING
    ping = guest.take()
    assert kinds(ping) == [Kind.PING]
    host.receive(ping, 1.0)
    guest.receive(host.take(), 1.2)
    assert guest.round_trip is not None
    assert guest.deadline == pytest.approx(2.2)
    guest.tick(2.2)
    guest.tick(3.2)
    assert kinds(guest.take()) == [Kind.PING], "what was not taken is not asked twice"
    assert guest.tick(4.19) is Due.NOTHING
    assert guest.tick(4.2) is Due.PIPE_DEAD
    guest.detach()
    assert guest.deadline == 1.2 + TIMING.grace + TIMING.silence


def test_the_round_trip_is_measured_while_there_is_traffic() -> None:
    guest, host = connected()
    pings = 0
    for tenth in range(1, 106):
        now = tenth / 10
        guest.send(b"x")
        data = guest.take()
        pings += kinds(data).count(Kind.PING)
        host.receive(data, now)
        host.send(b"y")
        guest.tick(now)
        guest.receive(host.take(), now + 0.05)
    assert pings == 2
    assert guest.round_trip is not None
    assert guest.round_trip > 0.01


def test_a_pong_that_nobody_asked_for_measures_nothing() -> None:
    guest, _ = connected()
    before = guest.round_trip
    guest.receive(encode(Kind.PONG, 0, 0, b"whatever"), 50.0)
    assert guest.round_trip == before


def test_an_end_that_does_not_read_makes_nothing_grow_and_nothing_due() -> None:
    """Its pipe is congested, so nothing is taken for it; it goes on sending, and counts as alive."""
    guest, host = connected()
    now = 0.0
    for _ in range(100):
        for _ in range(200):
            now += 0.001
            guest.send(bytes(1000))
            host.receive(guest.take(), now)
            host.receive(encode(Kind.PING, 0, 0, bytes(8)) * 10, now)
        for _ in range(2):
            assert host.deadline is not None
            assert host.deadline > now, "a tick that is due for ever would spin"
            now = host.deadline
            assert host.tick(now) is Due.NOTHING
    waiting = kinds(host.take())
    assert sorted(waiting) == [Kind.ACK, Kind.PING, Kind.PONG]


def test_a_pipe_that_never_says_hello_is_given_up() -> None:
    assert session(Role.GUEST).deadline is None
    guest = session(Role.GUEST)
    guest.attach(5.0)
    assert guest.deadline == 5.0 + TIMING.greeting
    assert guest.tick(5.0 + TIMING.greeting) is Due.PIPE_DEAD


@pytest.mark.parametrize(("role", "longer"), [(Role.HOST, 0.0), (Role.GUEST, TIMING.silence)])
def test_a_session_outlives_its_pipe_by_the_grace_of_its_end(role: Role, longer: float) -> None:
    ends = connected()
    one = next(end for end in ends if end.role is role)
    one.tick(2.0)
    part(one)
    end_of_it = TIMING.grace + longer
    assert one.deadline == end_of_it
    assert one.tick(end_of_it - 0.01) is Due.NOTHING
    assert one.tick(end_of_it) is Due.ENDED
    assert one.phase is Phase.ENDED
    assert one.kept == (0, 0)
    assert one.deadline is None


def test_a_new_pipe_without_a_hello_does_not_prolong_the_grace() -> None:
    guest, _ = connected()
    part(guest)
    guest.attach(9.0)
    assert guest.deadline == TIMING.grace + TIMING.silence
    assert guest.tick(TIMING.grace + TIMING.silence) is Due.ENDED


def test_a_host_forgets_a_guest_that_never_came() -> None:
    host = session(Role.HOST, now=100.0)
    host.attach(100.0)
    host.detach()
    assert host.tick(100.0 + TIMING.grace) is Due.ENDED


def test_the_lesser_grace_counts() -> None:
    guest = session(Role.GUEST, timing=Timing(grace=3.0))
    host = session(Role.HOST)
    join(guest, host, 0.0)
    part(guest, host)
    assert host.tick(3.0) is Due.ENDED
    assert guest.tick(4.0) is Due.ENDED


def test_a_bye_ends_the_session_at_both_ends() -> None:
    guest, host = connected()
    guest.send(b"last")
    guest.take()
    guest.close(Bye(Reason.CLOSED, "enough"))
    data = guest.take()
    assert kinds(data) == [Kind.BYE]
    host.receive(data, 0.0)
    assert (host.phase, host.farewell) == (Phase.ENDED, Bye(Reason.CLOSED, "enough"))
    assert host.receive(b"whatever", 0.0) == []
    host.send(b"into the void")
    host.attach(1.0)
    assert host.take() == b""
    assert host.kept == (0, 0)


def test_nothing_after_a_bye_counts() -> None:
    _, host = connected()
    bye = encode(Kind.BYE, 0, 0, Bye(Reason.CLOSED).encode())
    assert host.receive(bye + encode(Kind.DATA, 1, 0, b"x"), 0.0) == []


@pytest.mark.parametrize(
    ("error", "reason"), [(WireError("bad"), Reason.PROTOCOL), (SessionOverflowError("slow"), Reason.LIMIT)]
)
def test_a_breach_is_told(error: WireError | SessionOverflowError, reason: Reason) -> None:
    guest, host = connected()
    host.breach(error)
    guest.receive(host.take(), 0.0)
    assert guest.farewell == Bye(reason, str(error))


def test_what_is_kept_is_bounded() -> None:
    size = 100 - HEADER_SIZE
    guest, host = connected(Bounds(full_frames=100, full_bytes=500, most_bytes=1000))
    for _ in range(5):
        assert not guest.full
        guest.send(bytes(size))
    assert guest.full
    for _ in range(5):
        guest.send(bytes(size))
    with pytest.raises(SessionOverflowError):
        guest.send(b"")
    exchange(guest, host, 0.0)
    host.tick(TIMING.ack_delay)
    exchange(guest, host, TIMING.ack_delay)
    assert not guest.full


def test_so_is_their_number() -> None:
    guest, _ = connected(Bounds(full_frames=3))
    for _ in range(3):
        guest.send(b"")
    assert guest.full


def test_a_message_fits_into_a_frame() -> None:
    guest, _ = connected()
    with pytest.raises(ValueError, match="at most"):
        guest.send(bytes(2**20 + 1))
    with pytest.raises(ValueError, match="16 bytes"):
        Session(Role.GUEST, b"short", 0.0)


def test_a_pipe_gets_its_fill_in_portions() -> None:
    guest, host = connected()
    for _ in range(10):
        host.send(bytes(100_000))
    sizes = []
    while data := host.take(256 * 1024):
        sizes.append(len(data))
        guest.receive(data, 0.0)
    assert len(sizes) == 4
    assert guest.received == 10
    assert not host.pending


def test_nothing_goes_into_a_pipe_that_is_not_there() -> None:
    guest, _ = connected()
    part(guest)
    guest.send(b"x")
    assert guest.take() == b""
    assert not guest.pending
    assert guest.receive(b"late bytes of an old pipe", 0.0) == []
    assert Frame(Kind.ACK, 0, 1).payload == b""


def test_a_guest_that_comes_back_gets_no_new_time_before_it_has_heard_the_host() -> None:
    guest, host = connected()
    part(guest, host)
    guest.attach(8.0)
    host.attach(8.0)
    host.receive(guest.take(), 8.0)
    assert host.phase is Phase.CONNECTED
    assert host.ends_at == TIMING.grace  # since they were together: the host's hello may never arrive
    assert host.tick(8.0 + TIMING.dead) is Due.PIPE_DEAD
    host.detach()
    assert host.tick(8.0 + TIMING.dead) is Due.ENDED
    assert guest.ends_at == TIMING.grace + TIMING.silence


def test_a_guest_that_has_heard_the_host_again_has_all_its_time() -> None:
    guest, host = connected()
    part(guest, host)
    join(guest, host, 8.0)
    assert host.ends_at == 8.0 + TIMING.grace
    assert guest.ends_at == 8.0 + TIMING.grace + TIMING.silence


def test_a_guest_that_returns_may_say_hello_again_where_that_is_expected() -> None:
    """It was on another pipe, of which the host has heard nothing: what that has swallowed is sent again."""
    guest, host = connected()
    host.returns = True
    guest.send(b"one")
    guest.attach(1.0)
    guest.take()
    guest.send(b"two")  # into a pipe that leads nowhere
    guest.attach(2.0)
    host.send(b"answer")
    host.take()  # on its way while the guest is on the other pipe, which reads past it
    assert host.receive(guest.take(), 2.0) == []
    assert guest.receive(host.take(), 2.0) == [b"answer"]
    assert host.receive(guest.take(), 2.0) == [b"one", b"two"]
    assert (host.resumes, guest.resumes) == (1, 1)


def test_another_way_has_another_round_trip_from_the_first_measurement_on() -> None:
    guest, host = connected()
    guest.round_trip = host.round_trip = 0.2
    part(guest, host)
    guest.attach(1.0, 2.0)
    host.attach(1.0, 2.0)
    exchange(guest, host, 1.0)
    assert guest.round_trip == 0.0
    assert guest.deadline is not None
