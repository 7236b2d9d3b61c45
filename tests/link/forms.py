"""Calls in two forms: the coroutines, and the form without a task wherever that can be had, at both ends of a link."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cardferry.link.guest_card import GuestCard
from cardferry.pcsc.constants import Disposition, Protocol
from cardferry.pcsc.errors import PcscError
from cardferry.readers.base import Answered
from cardferry.readers.slot import SlotReader

COROUTINES, AT_ONCE = FORMS = ("coroutines", "at once")


def at_once_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of guests and readers of the host do at once what can be done so."""
    _guests(monkeypatch)
    readers_at_once(monkeypatch)


def _guests(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, end, transmit = GuestCard.begin, GuestCard.end, GuestCard.transmit

    async def begin_at_once(self: GuestCard) -> None:
        if not self.begin_at_once():
            await begin(self)

    async def end_at_once(self: GuestCard, disposition: Disposition) -> None:
        if not self.end_at_once(disposition):
            await end(self, disposition)

    async def transmit_at_once(self: GuestCard, apdu: bytes, protocol: int) -> bytes:
        sent = Sent()
        if not sent.off(self, apdu, protocol):
            return await transmit(self, apdu, protocol)
        return await sent.answer

    monkeypatch.setattr(GuestCard, "begin", begin_at_once)
    monkeypatch.setattr(GuestCard, "end", end_at_once)
    monkeypatch.setattr(GuestCard, "transmit", transmit_at_once)


class Sent:
    """A command that is sent at once; its answer comes once, and not before it was sent."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.answers = 0
        self._left = False

    def off(self, card: Any, apdu: bytes, protocol: int) -> bool:
        """Send it; False when it cannot leave now."""
        self._left = card.transmit_at_once(apdu, protocol, self._done)
        return self._left

    def has_ended(self) -> bool:
        """Whether the answer, or an error, has come."""
        return self.answers > 0

    def _done(self, response: bytes, error: PcscError | None) -> None:
        self.answers += 1
        assert self._left, "answered before it was sent"
        assert self.answers == 1, "answered again"
        if self.answer.cancelled():
            return
        if error is None:
            self.answer.set_result(response)
        else:
            self.answer.set_exception(error)
            self.answer.exception()  # looked at, even if the test does not


def readers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers with software cards claim, release and send at once, as those of a pcscd do."""
    under_way: set[asyncio.Task[bytes]] = set()

    def claim_at_once(self: SlotReader) -> bool:
        return "claim" not in vars(self)  # what a test has put in its place

    def release_at_once(self: SlotReader) -> bool:
        return "release" not in vars(self)

    def transmit_at_once(self: SlotReader, apdu: bytes, protocol: Protocol, answered: Answered) -> bool:
        task = asyncio.get_running_loop().create_task(self.transmit(apdu, protocol))
        under_way.add(task)

        def done(task: asyncio.Task[bytes]) -> None:
            under_way.discard(task)
            error = task.exception()
            if error is None:
                answered(task.result(), None)
                return

            async def rest() -> bytes:
                raise error

            answered(b"", rest)

        task.add_done_callback(done)
        return True

    monkeypatch.setattr(SlotReader, "claim_at_once", claim_at_once)
    monkeypatch.setattr(SlotReader, "release_at_once", release_at_once)
    monkeypatch.setattr(SlotReader, "transmit_at_once", transmit_at_once)
