"""A bug behind one program closes its connection at most: an exception at every boundary of the front."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.frontends.pcsclite.connection import Connection
from cardferry.frontends.pcsclite.seen import Seen
from cardferry.wire.pcsclite.server import ServerCodec
from tests.frontends.at_desk import EVENTS, Post, Program, at_desk
from tests.frontends.library import CallError
from tests.manager.desk import ATR

INJECTED = "injected"
#: What stops a bug, or is called by the loop, which closes the connection then.
OUTSIDE = (
    "guarded",
    "close",
    "get_buffer",
    "data_received",
    "connection_made",
    "connection_lost",
    "pause_writing",
    "resume_writing",
)


def functions(kind: type) -> list[tuple[type, str]]:
    return [(kind, name) for name, value in vars(kind).items() if inspect.isfunction(value) and name not in OUTSIDE]


PLACES = [place for place in functions(Connection) if place[1] != "__init__"]
PLACES += functions(ServerCodec)
PLACES += [(PcscliteFrontend, name) for name in ("start", "new_number", "seen_by")]
PLACES += [(Seen, name) for name in ("reader_called", "changed", "_notify")]


class Injection:
    """Lets one function raise, the first time that it is called for whom it may concern."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        self.concerns: Callable[[object], bool] = lambda one: False
        self.reached = False
        function = getattr(kind, name)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def raising(one: object, *args: Any) -> Any:
                self._raise(one)
                return await function(one, *args)
        else:

            @wraps(function)
            def raising(one: object, *args: Any, **named: Any) -> Any:
                self._raise(one)
                return function(one, *args, **named)

        monkeypatch.setattr(kind, name, raising)
        for table in ("_ANSWERS", "_AT_ONCE", "_CALLS"):
            entries = getattr(kind, table, {})
            changed = {key: raising if value is function else value for key, value in entries.items()}
            monkeypatch.setattr(kind, table, changed, raising=False)

    def _raise(self, one: object) -> None:
        if not self.reached and self.concerns(one):
            self.reached = True
            raise RuntimeError(INJECTED)


async def everything(program: Program, post: Post) -> None:
    """What programs do, as far as the connection lasts."""
    try:
        async with program:
            card = await program.connected()
            await program.status(card)
            await program.begin(card)
            await program.sending(card)
            await program.end(card)
            await program.reconnect(card)
            await program.sending(card, room=1)
            await program.register()
            post.desk.manager.card_removed(post.desk.reader)
            await asyncio.sleep(1)
            await program.ask(EVENTS, "II")
            post.desk.manager.card_inserted(post.desk.reader, ATR)
            await program.cancel(program.context)
            await program.disconnect(card)
            await program.release()
    except (OSError, EOFError, CallError, AssertionError, TimeoutError):
        return


@pytest.mark.parametrize(("kind", "name"), PLACES, ids=lambda one: one if isinstance(one, str) else one.__name__)
async def test_a_bug_behind_one_program_is_nobody_elses(
    kind: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_desk(tmp_path) as post, post.program() as honest:
        card = await honest.connected()
        injection = Injection(monkeypatch, kind, name)
        theirs = set(post.front.connections)
        codecs = {id(connection._codec) for connection in theirs}

        def concerns(one: object) -> bool:
            if isinstance(one, Connection):
                return one not in theirs
            return id(one) not in codecs

        injection.concerns = concerns
        await everything(post.program(), post)
        injection.concerns = lambda one: False
        assert (INJECTED in caplog.text) == injection.reached
        post.desk.manager.card_inserted(post.desk.reader, ATR)
        assert await honest.reconnect(card) == 0
        assert await honest.sending(card) == (2, 0)
        async with post.program() as next_one:
            assert await next_one.sending(await next_one.connected()) == (2, 0)
