"""Calls in two forms: the coroutines, and the form without a task wherever that can be had."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import Disposition
from cardferry.pcsc.errors import PcscError

COROUTINES, AT_ONCE = FORMS = ("coroutines", "at once")


def try_at_once_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `LocalCard`'s coroutines try the other form first, as frontends and links do."""
    begin, end, transmit = LocalCard.begin, LocalCard.end, LocalCard.transmit

    async def begin_at_once(self: LocalCard) -> None:
        if not self.begin_at_once():
            await begin(self)

    async def end_at_once(self: LocalCard, disposition: Disposition) -> None:
        if not self.end_at_once(disposition):
            await end(self, disposition)

    async def transmit_at_once(self: LocalCard, apdu: bytes, protocol: int) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        left = False
        answers = 0

        def done(response: bytes, error: PcscError | None) -> None:
            nonlocal answers
            answers += 1
            assert left, "answered before it was sent"
            assert answers == 1, "answered again"
            if error is None:
                answer.set_result(response)
            else:
                answer.set_exception(error)

        left = self.transmit_at_once(apdu, protocol, done)
        if not left:
            return await transmit(self, apdu, protocol)
        return await _not_given_up(answer)

    monkeypatch.setattr(LocalCard, "begin", begin_at_once)
    monkeypatch.setattr(LocalCard, "end", end_at_once)
    monkeypatch.setattr(LocalCard, "transmit", transmit_at_once)


async def _not_given_up(answer: asyncio.Future[bytes]) -> bytes:
    """Wait for the answer to a call at once, which cannot be cancelled: the next call of its context comes after it."""
    cancelled: asyncio.CancelledError | None = None
    while not answer.done():
        try:
            await asyncio.wait((answer,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        answer.exception()
        raise cancelled
    return answer.result()
