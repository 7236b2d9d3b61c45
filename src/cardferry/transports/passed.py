"""A pipe through which another one passes: for whoever must see what the user of that one sees."""

from __future__ import annotations

from cardferry.transports.base import Pipe, PipeUser


class PassedPipe:
    """The user of one pipe, and a pipe for its own user; derive from it what shall be different.

    Args:
        pipe: connected, and without a user.
    """

    def __init__(self, pipe: Pipe) -> None:
        self.name = pipe.name
        self._pipe = pipe
        self._user: PipeUser | None = None
        self.write, self.close, self.abort = pipe.write, pipe.close, pipe.abort
        self.pause_reading, self.resume_reading = pipe.pause_reading, pipe.resume_reading

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        self._pipe.start(self)  # which delivers later, and raises when there is a user already
        self._user = user

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._user is not None:
            self._user.received(data)

    def congested(self, congested: bool) -> None:
        """The other end does not keep up, or has caught up."""
        if self._user is not None:
            self._user.congested(congested)

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        if self._user is not None:
            self._user.lost(error)
