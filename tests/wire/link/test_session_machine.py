"""Both ends of a session, and a pipe between them that breaks wherever it likes but keeps the order of its bytes.

Whatever happens: each message arrives once and in order, nothing is lost while the session lives, what is kept stays
within its bounds, and no end ever accuses the other of breaking the protocol.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cardferry.wire.link.frames import HEADER_SIZE
from cardferry.wire.link.greeting import Role
from cardferry.wire.link.session import Bounds, Due, Phase, Session, Timing

BOUNDS = Bounds(full_frames=20, full_bytes=2000, most_bytes=4000)
TIMING = Timing()
ends = st.sampled_from([0, 1])


class End:
    """A session, what its layer above has sent and received, and what is on its way to it."""

    def __init__(self, role: Role) -> None:
        self.session = Session(role, bytes(16), 0.0, timing=TIMING, bounds=BOUNDS)
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.inbound = bytearray()
        #: Which pipe this end has; None without one.
        self.pipe: int | None = None


class Link(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ends = End(Role.GUEST), End(Role.HOST)
        self.now = 0.0
        self.pipes = 0
        #: s that bytes were under way to the host at most, and since when some are.
        self.late = self.since = 0.0

    @property
    def alive(self) -> bool:
        return all(end.session.phase is not Phase.ENDED for end in self.ends)

    def other(self, which: int) -> End:
        return self.ends[1 - which]

    # the layers above

    @rule(which=ends, size=st.integers(0, 120))
    def send(self, which: int, size: int) -> None:
        end = self.ends[which]
        if end.session.full or not self.alive:
            return
        message = len(end.sent).to_bytes(4, "big") + bytes(size)
        end.session.send(message)
        end.sent.append(message)

    # the pipe

    @rule()
    def dial(self) -> None:
        """The guest makes a new pipe; the host may have the old one still."""
        self.pipes += 1
        for end in self.ends:
            end.inbound.clear()
            end.session.attach(self.now)
            end.pipe = self.pipes

    @rule(which=ends, most=st.sampled_from([1, 100, 10000]))
    def write(self, which: int, most: int) -> None:
        end, other = self.ends[which], self.other(which)
        data = end.session.take(most)
        if end.pipe is not None and end.pipe == other.pipe:
            if which == 0 and not other.inbound:
                self.since = self.now
            other.inbound += data

    @rule(which=ends, size=st.one_of(st.integers(1, 300), st.just(100_000)))
    def deliver(self, which: int, size: int) -> None:
        end = self.ends[which]
        data, end.inbound = bytes(end.inbound[:size]), end.inbound[size:]
        if data and end.pipe is not None:
            if which == 1:
                self.late = max(self.late, self.now - self.since)
            end.received += end.session.receive(data, self.now)

    @rule(which=ends, rest=st.integers(0, 300))
    def lose(self, which: int, rest: int) -> None:
        """One end learns that the pipe is broken; the other still gets some of what was on its way."""
        end, other = self.ends[which], self.other(which)
        end.session.detach()
        end.pipe = None
        end.inbound.clear()
        del other.inbound[rest:]

    # time

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for end in self.ends:
            due = end.session.tick(self.now)
            if due is Due.PIPE_DEAD:
                end.session.detach()
                end.pipe = None
                end.inbound.clear()

    @precondition(lambda self: self.alive)
    @rule()
    def calm(self) -> None:
        """With a pipe that works, everything arrives, and nothing more is kept."""
        self.dial()
        for _ in range(2):
            self.now += TIMING.ack_delay
            for end in self.ends:
                end.session.tick(self.now)
            if not self.alive:
                return
            while any(end.session.pending for end in self.ends) or any(end.inbound for end in self.ends):
                for which in (0, 1):
                    self.write(which, 10000)
                    self.deliver(which, 100_000)
        for which, end in enumerate(self.ends):
            assert end.received == self.other(which).sent
            assert end.session.kept == (0, 0)

    # what always holds

    @invariant()
    def once_and_in_order(self) -> None:
        for which, end in enumerate(self.ends):
            assert end.received == self.other(which).sent[: len(end.received)]

    @invariant()
    def nothing_is_lost(self) -> None:
        """What has not arrived is still kept by its sender."""
        for which, end in enumerate(self.ends):
            other = self.other(which)
            if end.session.phase is not Phase.ENDED:
                assert len(end.sent) - len(other.received) <= end.session.kept[0]

    @invariant()
    def buffers_are_bounded(self) -> None:
        for end in self.ends:
            frames, size = end.session.kept
            assert frames <= BOUNDS.full_frames
            assert size <= BOUNDS.full_bytes + 124 + HEADER_SIZE

    @invariant()
    def the_host_lets_go_when_programs_have_heard_of_it(self) -> None:
        """It may hear the guest while that takes a deaf pipe for alive, and what was under way for long."""
        guest, host = (end.session for end in self.ends)
        if guest.phase is Phase.ENDED and guest.farewell is None and host.established:
            ends_at = host.ends_at
            assert host.phase is Phase.ENDED or (ends_at is not None and ends_at <= self.now + TIMING.dead + self.late)


Link.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLink = Link.TestCase
