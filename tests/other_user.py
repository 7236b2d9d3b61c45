"""Somebody else on this computer: a child process under another user id, which needs root and no account."""

from __future__ import annotations

import os
import pickle
import pwd
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import pytest

from cardferry.pcsc.errors import UserError

Result = TypeVar("Result")

#: A user id that no account of this computer has.
SOMEBODY = max(54320, *(account.pw_uid for account in pwd.getpwall() if account.pw_uid < 65000)) + 1

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="not run, needs root: another user")


def _become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def as_somebody(function: Callable[[], Result], uid: int = SOMEBODY) -> Result:
    """What the function returns, or raises, when another user calls it; a `UserError` as its two lines."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become(uid)
            outcome: object = function()
        except UserError as error:
            outcome = RuntimeError(f"{error.message}\n{error.hint}")
        except BaseException as error:  # noqa: BLE001 - it is raised again on the other side
            outcome = error
        os.write(writing, pickle.dumps(outcome))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        outcome = pickle.load(said)
    os.waitpid(child, 0)
    if isinstance(outcome, BaseException):
        raise outcome
    return cast("Result", outcome)


@contextmanager
def somebody_who(does: Callable[[], None], uid: int = SOMEBODY) -> Iterator[None]:
    """Another user does something again and again for the block."""
    child = os.fork()
    if child == 0:
        try:
            _become(uid)
            while True:
                with suppress(OSError):
                    does()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def folder_for_all(mode: int = 0o755) -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cf-") as name:
        Path(name).chmod(mode)
        yield Path(name)
