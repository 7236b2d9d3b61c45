"""The answers to a guest that asks how long the queue of a reader is; see `cardferry.pcsc.reader_state.Queue`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cardferry.link import messages as m
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import Queue
from cardferry.pcsc.reply import Reply

#: Questions of one guest that wait for somebody else's answer; more are answered at once with "nobody knows".
MOST_QUESTIONS: Final = 64


class QueueQuestions:
    """What one guest wants to know.

    Args:
        manager: as the guest sees it.
        post: says something to the guest.
    """

    def __init__(self, manager: ResourceManager, post: Callable[[m.QueueLength], object]) -> None:
        self._manager = manager
        self._post = post
        self._waiting = 0

    def ask(self, question: m.AskQueue) -> None:
        """Answer, as soon as it is known."""
        reader = self._manager.snapshot.find(m.name_of(question.reader))
        if reader is None or reader.queue is None or self._waiting >= MOST_QUESTIONS:
            self._post(m.QueueLength(question.call, None))
            return
        self._waiting += 1
        reader.queue().then(partial(self._known, question.call))

    def _known(self, call: int, reply: Reply[Queue]) -> None:
        self._waiting -= 1
        queue = reply.result() if reply.error is None else None
        self._post(m.QueueLength(call, None) if queue is None else m.QueueLength(call, queue.busy, queue.handles))
