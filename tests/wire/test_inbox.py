from __future__ import annotations

from cardferry.wire.inbox import Inbox


def test_input_that_is_whole_is_not_copied() -> None:
    inbox = Inbox(4)
    data = b"12345"
    assert inbox.take(data) is data


def test_input_is_held_until_there_is_enough() -> None:
    inbox = Inbox(4)
    assert inbox.take(b"123") == b"123"
    inbox.keep(b"123", 0)
    assert len(inbox) == 3
    assert inbox.take(b"") == b""
    assert inbox.take(memoryview(b"45")) == b"12345"
    assert len(inbox) == 0


def test_only_what_is_left_is_kept() -> None:
    inbox = Inbox(4)
    inbox.keep(b"12345", 4)
    assert len(inbox) == 1
    inbox.keep(b"12345", 5)
    assert len(inbox) == 1
