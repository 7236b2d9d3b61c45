"""Locks of open files, kept from everybody who asks for them, until the file is closed (flock(2))."""

from __future__ import annotations

import fcntl


def lock(descriptor: int) -> None:
    """Wait until nobody else has the lock, and take it."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def lock_at_once(descriptor: int) -> None:
    """Take the lock; raises `BlockingIOError` when somebody has it."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    """Give the lock back."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
