"""The answer to a guest that asks how long the queue of a reader is; see `cardferry.pcsc.reader_state.Queue`."""

from __future__ import annotations

from collections.abc import Callable

from cardferry.link import messages as m
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import Queue
from cardferry.pcsc.reply import Reply


def tell_queue(manager: ResourceManager, question: m.AskQueue, post: Callable[[m.QueueLength], object]) -> None:
    """Answer, as soon as it is known.

    Args:
        manager: as the guest sees it.
        question: what it asks.
        post: says it to the guest.
    """

    def known(reply: Reply[Queue]) -> None:
        queue = reply.result() if reply.error is None else None
        post(m.QueueLength(call, None) if queue is None else m.QueueLength(call, queue.busy, queue.handles))

    call = question.call
    reader = manager.snapshot.find(m.name_of(question.reader))
    if reader is None or reader.queue is None:
        post(m.QueueLength(call, None))
    else:
        reader.queue().then(known)
