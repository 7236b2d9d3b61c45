"""The session: what both ends of a link remember, so that a broken pipe loses nothing and repeats nothing.

A pure state machine, the same one at both ends. Bytes come in by `Session.receive` and go out by `Session.take`; the
time, in s on any clock that does not go back, is an argument. Pipes come (`attach`) and go (`detach`):

```
                   attach               hello received
  DISCONNECTED ------------> GREETING ------------------> CONNECTED
       ^                        |                             |
       +-------- detach --------+----------- detach ----------+   from any state: bye, breach, or grace over -> ENDED
```

A session moves from a pipe that stands to another one when that is attached. The first one may be kept, and attached
again later. The host may have heard nothing of the one in between: so a guest may say hello once more (`returns`).

Data frames are numbered and kept until the other end has acknowledged them. On every new pipe both ends say up to where
they have received, and what comes after that is sent again. Acknowledgements ride on frames that travel anyway, or
follow a little later by themselves.

Silence for `Timing.silence` is answered with a ping, silence for `Timing.dead` means that the pipe is dead.
A session without a pipe ends when the other end was last heard `grace` ago. The guest waits one `Timing.silence`
longer: what is heard last by the two ends can be so far apart, and so the host has let go of the cards before any
application hears of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cardferry.pcsc.errors import CardferryError
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import HEADER_SIZE, MAX_PAYLOAD, Frame, FrameReader, Kind, encode, encode_data
from cardferry.wire.link.greeting import IDENTITY_SIZE, Bye, Hello, Reason, Role, agree

_PROBE: Final = struct.Struct("!Q")
#: Acknowledgements are sent by themselves at once after so many frames, or bytes.
_ACK_FRAMES: Final = 64
_ACK_BYTES: Final = 256 * 1024
#: Bytes of the largest message that a guest sends: an extended APDU, and what belongs to it. A host has more to say.
_MOST_FROM_GUEST: Final = 72 * 1024
#: Weight of a new measurement in the round trip's running mean.
_NEW_WEIGHT: Final = 0.25


@dataclass(frozen=True, slots=True)
class Timing:
    """Times, in s.

    Attributes:
        grace: how long a session outlives its pipe; of both ends' values the lesser counts.
        silence: after so much of it the other end is pinged.
        dead: after so much of it the pipe is given up.
        greeting: a new pipe may be silent for so long before its first hello (ssh may be asking for a password).
        ack_delay: how long an acknowledgement waits for a frame to ride on.
        probe: the round trip is measured so often while there is traffic.
        patient: a guest takes its time to reach a host that has been away for longer than `grace`.
    """

    grace: float = 10.0
    silence: float = 1.0
    dead: float = 3.0
    greeting: float = 30.0
    ack_delay: float = 0.05
    probe: float = 5.0
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an end keeps for the other one.

    Attributes:
        full_frames, full_bytes: from here on `Session.full` asks the layer above to wait.
        most_bytes: `Session.send` refuses to keep more than this.
    """

    full_frames: int = 16384
    full_bytes: int = 8 << 20
    most_bytes: int = 64 << 20


class SessionOverflowError(CardferryError):
    """The other end does not acknowledge, and more was sent than may be kept for it."""


class Phase(Enum):
    """Where a session is; see the picture in the module."""

    DISCONNECTED = "disconnected"
    GREETING = "greeting"
    CONNECTED = "connected"
    ENDED = "ended"


class Due(Enum):
    """What `Session.tick` found out."""

    #: Nothing that the caller must do.
    NOTHING = "nothing"
    #: The pipe is dead: drop it and `detach`.
    PIPE_DEAD = "pipe dead"
    #: The session has ended.
    ENDED = "ended"


class Session:
    """One end's half of a session.

    Args:
        role: which end this is.
        identity: 16 random bytes, the same at both ends.
        now: the time.
        timing: see `Timing`.
        bounds: see `Bounds`.
        software: name and version of this program, told to the other end.

    Attributes:
        phase: where the session is.
        established: whether a hello of the other end was ever received.
        version: the protocol version in force, once established.
        peer: the other end's latest hello, None before the first.
        farewell: why the session is over, as far as the other end said so.
        round_trip: running mean in s, None before the first measurement.
        received: number of the last data frame that was received.
        resumes: how often the session went on after a break.
        repeated: data frames that were sent again.
        duplicates: data frames that came again, and were dropped.
        returns: whether the guest may say hello again on a pipe on which it has said so before.
        reader: reads the present pipe.
    """

    def __init__(
        self,
        role: Role,
        identity: bytes,
        now: float,
        *,
        timing: Timing | None = None,
        bounds: Bounds | None = None,
        software: str = "",
    ) -> None:
        if len(identity) != IDENTITY_SIZE:
            raise ValueError(f"a session's identity has {IDENTITY_SIZE} bytes")
        self.role = role
        self.identity = identity
        self.timing = timing or Timing()
        self.bounds = bounds or Bounds()
        self.phase = Phase.DISCONNECTED
        self.established = False
        self.version = 0
        self.peer: Hello | None = None
        self.farewell: Bye | None = None
        self.round_trip: float | None = None
        self.received = 0
        self.resumes = self.repeated = self.duplicates = 0
        self.returns = False
        self._software = software
        self._grace = self.timing.grace
        self.reader = self._new_reader()
        self._patience = self.timing.greeting
        self._other_way = False
        #: Frames without a number that wait to be taken. One of each kind says all there is to say: an end that does
        #: not read what it is sent makes nothing grow here.
        self._aside: dict[Kind, bytes] = {}
        #: Data frames' payloads by number, from the first one that is not acknowledged.
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._last = 0
        self._acknowledged = 0
        #: The number of the next data frame that goes into the present pipe.
        self._cursor = 1
        #: The greatest number that ever went into a pipe.
        self._sent = 0
        #: When anything came through a pipe; and when that was a sign that the other end hears us, too.
        self._heard = now
        self._sure = now
        self._attached = now
        self._ack_due: float | None = None
        self._ack_frames = self._ack_bytes = 0
        self._probe: bytes | None = None
        self._probed = now

    # what the layer above sends

    @property
    def full(self) -> bool:
        """Whether the layer above should wait before it sends more."""
        return self._kept_bytes >= self.bounds.full_bytes or len(self._kept) >= self.bounds.full_frames

    @property
    def kept(self) -> tuple[int, int]:
        """Frames, and their bytes, that are not acknowledged yet."""
        return len(self._kept), self._kept_bytes

    def send(self, payload: bytes) -> None:
        """Give a message to the session: it will arrive once, after those that were given before it.

        Raises:
            SessionOverflowError: there is no room for it.
            ValueError: it is larger than a frame can carry.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a message has at most {MAX_PAYLOAD} bytes, not {len(payload)}")
        if self.phase is Phase.ENDED:
            return
        size = len(payload) + HEADER_SIZE
        if self._kept_bytes + size > self.bounds.most_bytes:
            raise SessionOverflowError(f"{self._kept_bytes} bytes are not acknowledged")
        self._last += 1
        self._kept[self._last] = payload
        self._kept_bytes += size

    def send_now(self, payload: bytes) -> bytes:
        """`send`, and what `take` gives if this message is all that waits: then nothing is pending. Else nothing."""
        self.send(payload)
        if self._cursor == self._last and self.phase is Phase.CONNECTED and not self._aside:
            return self._take_one(payload)
        return b""

    # pipes come and go

    def attach(self, now: float, patience: float | None = None) -> None:
        """There is a new pipe; an older one is forgotten.

        Args:
            patience: s that it may be silent at first, None for `Timing.greeting`. With it the pipe goes another way
                than the one before, so the round trip is another one, too.
        """
        if self.phase is Phase.ENDED:
            return
        self._patience = self.timing.greeting if patience is None else patience
        self._other_way = patience is not None
        self._attached = now
        self.reader = self._new_reader()
        self._greet()

    def _greet(self) -> None:
        self.phase = Phase.GREETING
        self._probe = self._ack_due = None
        self._aside = {Kind.HELLO: self.hello.encode()}

    def _new_reader(self) -> FrameReader:
        return FrameReader(_MOST_FROM_GUEST if self.role is Role.HOST else MAX_PAYLOAD)

    @property
    def hello(self) -> Hello:
        """What this end says on a new pipe."""
        return Hello(
            self.role,
            self.identity,
            self.established,
            self.received,
            round(self.timing.grace * 1000),
            software=self._software,
        )

    def detach(self) -> None:
        """The pipe is gone."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.DISCONNECTED
            self._aside = {}

    def close(self, bye: Bye) -> None:
        """This end ends the session; the bye can still be taken."""
        if self.phase is Phase.CONNECTED or (self.phase is Phase.GREETING and self.role is Role.HOST):
            self._aside[Kind.BYE] = bye.encode()
        self._end()

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self._kept.clear()
        self._kept_bytes = 0

    # bytes come in

    def next_size(self, data: bytes | bytearray) -> int:
        """How many bytes of ``data`` it takes until the next frame is whole, as far as that can be seen; at least 1."""
        return self.reader.next_size(data)

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Take bytes from the pipe; return the messages that are new and whole, in order.

        Raises:
            WireError: the other end broke the protocol. End the session with `close`.
        """
        delivered: list[bytes] = []
        if self.phase is Phase.CONNECTED:
            self._heard = self._sure = now
            single = self.reader.only_data(data)
            if single is not None:
                number, acknowledged, payload = single
                self._acknowledge(acknowledged, self._cursor - 1)
                self._data(number, payload, now, delivered)
                return delivered
        elif self.phase is not Phase.GREETING:
            return delivered
        for frame in self.reader.receive(data):
            if frame.kind is Kind.DATA and self.phase is Phase.CONNECTED:
                self._acknowledge(frame.acknowledged, self._cursor - 1)
                self._data(frame.number, frame.payload, now, delivered)
            elif not self._special(frame, now):
                break
        return delivered

    def _data(self, number: int, payload: bytes, now: float, delivered: list[bytes]) -> None:
        if number == self.received + 1:
            self.received = number
            delivered.append(payload)
        elif number > self.received:
            raise WireError(f"frame {number} came after frame {self.received}")
        else:
            self.duplicates += 1
        self._ack_frames += 1
        self._ack_bytes += len(payload)
        if self._ack_due is None:
            self._ack_due = now + self.timing.ack_delay
        if self._ack_frames >= _ACK_FRAMES or self._ack_bytes >= _ACK_BYTES:
            self._acknowledge_by_itself()

    def _acknowledge_by_itself(self) -> None:
        """It waits to be taken now; what comes meanwhile has a new delay, or the same tick would be due for ever."""
        self._aside[Kind.ACK] = b""
        self._ack_due = None
        self._ack_frames = self._ack_bytes = 0

    def _special(self, frame: Frame, now: float) -> bool:
        """Take a frame that is no message; return whether the session goes on."""
        kind = frame.kind
        if kind is Kind.BYE:
            self.farewell = Bye.parse(frame.payload)
            self._end()
            return False
        if kind is Kind.HELLO and self.returns and self.phase is Phase.CONNECTED:
            self._greet()
        if (kind is Kind.HELLO) != (self.phase is Phase.GREETING):
            raise WireError(f"{kind.name} does not belong here")
        if kind is Kind.HELLO:
            self._greeted(Hello.parse(frame.payload), now)
        else:
            self._acknowledge(frame.acknowledged, self._cursor - 1)
            if kind is Kind.PING:
                self._aside[Kind.PONG] = frame.payload
            elif kind is Kind.PONG:
                self._measured(frame.payload, now)
        return True

    def _greeted(self, hello: Hello, now: float) -> None:
        if hello.role is not self.role.other:
            raise WireError(f"the other end is a {hello.role.name.lower()}, too")
        if hello.identity != self.identity:
            raise WireError("the other end speaks of another session")
        version = agree(self.hello, hello)
        if self.established and version != self.version:
            raise WireError(f"the session began with version {self.version}, not {version}")
        self._acknowledge(hello.received, self._sent)
        self.resumes += self.established
        self.repeated += self._sent - hello.received
        self._cursor = hello.received + 1
        if self.role is Role.GUEST or not (self.established or hello.established):
            self._sure = now  # a guest that comes back may not hear us; its next frame says that it does
        self.peer, self.version, self.established = hello, version, True
        self._grace = min(self.timing.grace, hello.grace / 1000)
        self.phase = Phase.CONNECTED
        self._heard = now
        self._ping(now)

    def _acknowledge(self, number: int, sent: int) -> None:
        """The other end has received up to ``number``; ``sent`` is the last one that it can have received."""
        if number == self._acknowledged:
            return
        if number > sent:
            raise WireError(f"frame {number} is acknowledged, {sent} was the last one sent")
        if number < self._acknowledged:
            raise WireError(f"frame {number} is acknowledged after frame {self._acknowledged}")
        for known in range(self._acknowledged + 1, number + 1):
            self._kept_bytes -= len(self._kept.pop(known)) + HEADER_SIZE
        self._acknowledged = number

    def _measured(self, payload: bytes, now: float) -> None:
        if payload != self._probe:
            return
        self._probe = None
        measured = max(0.0, now - self._probed)
        before = None if self._other_way else self.round_trip
        self._other_way = False
        self.round_trip = measured if before is None else before + _NEW_WEIGHT * (measured - before)

    # bytes go out

    def take(self, most: int = 256 * 1024) -> bytes:
        """Bytes for the pipe, about ``most`` at a time; empty when there is nothing to send."""
        if self.phase is Phase.DISCONNECTED:
            return b""
        if not self._aside and self.phase is Phase.CONNECTED and self._cursor == self._last:
            return self._take_one(self._kept[self._last])
        parts = [encode(kind, 0, self.received, payload) for kind, payload in self._aside.items()]
        self._aside = {}
        if self.phase is Phase.CONNECTED:
            room = most
            while self._cursor <= self._last and room > 0:
                payload = self._kept[self._cursor]
                parts.append(encode(Kind.DATA, self._cursor, self.received, payload))
                room -= len(payload) + HEADER_SIZE
                self._cursor += 1
            self._sent = max(self._sent, self._cursor - 1)
        if parts:
            self._ack_due = None
            self._ack_frames = self._ack_bytes = 0
        return b"".join(parts)

    def _take_one(self, payload: bytes) -> bytes:
        """The one message that waits: what `take` gives mostly, without lists."""
        number = self._last
        self._cursor = number + 1
        self._sent = max(self._sent, number)
        self._ack_due = None
        self._ack_frames = self._ack_bytes = 0
        return encode_data(number, self.received, payload)

    @property
    def pending(self) -> bool:
        """Whether `take` would give anything of what was sent."""
        return bool(self._aside) or (self.phase is Phase.CONNECTED and self._cursor <= self._last)

    def _ping(self, now: float) -> None:
        self._probe = _PROBE.pack(int(now * 1_000_000) & 0xFFFF_FFFF_FFFF_FFFF)
        self._probed = now
        self._aside[Kind.PING] = self._probe

    # time

    @property
    def ack_due(self) -> float | None:
        """When an acknowledgement goes out by itself, None when nothing is to be acknowledged."""
        return self._ack_due

    @property
    def ends_at(self) -> float | None:
        """When the session ends unless the other end is heard before; None while that cannot happen."""
        if self.phase is Phase.ENDED or (self.role is Role.GUEST and not self.established):
            return None
        return self._sure + self._grace + (self.timing.silence if self.role is Role.GUEST else 0.0)

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called next, None when nothing is due ever."""
        match self.phase:
            case Phase.ENDED:
                return None
            case Phase.DISCONNECTED:
                return self.ends_at
            case Phase.GREETING:
                given_up = self._attached + self._patience
                return given_up if (ends := self.ends_at) is None else min(given_up, ends)
            case Phase.CONNECTED:
                next_ping = max(self._heard, self._probed) + self.timing.silence
                due = min(next_ping, self._heard + self.timing.dead)
                return due if self._ack_due is None else min(due, self._ack_due)

    def tick(self, now: float) -> Due:
        """Time has passed; there may be something to `take` now."""
        if self.phase is Phase.CONNECTED:
            return self._tick_together(now)
        if (ends := self.ends_at) is not None and now >= ends:
            self._end()
            return Due.ENDED
        if self.phase is Phase.GREETING and now >= self._attached + self._patience:
            return Due.PIPE_DEAD
        return Due.NOTHING

    def _tick_together(self, now: float) -> Due:
        timing = self.timing
        if now >= self._heard + timing.dead:
            return Due.PIPE_DEAD
        silent = now >= max(self._heard, self._probed) + timing.silence
        if silent or now >= self._probed + timing.probe:
            self._ping(now)
        elif self._ack_due is not None and now >= self._ack_due:
            self._acknowledge_by_itself()
        return Due.NOTHING

    def breach(self, error: CardferryError) -> None:
        """The other end did something that it must not do: say so, and end the session."""
        reason = Reason.LIMIT if isinstance(error, SessionOverflowError) else Reason.PROTOCOL
        self.close(Bye(reason, str(error)))
