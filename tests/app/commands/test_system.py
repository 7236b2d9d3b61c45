"""Guests that accounts hand over are that account's, whatever they say."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from cardferry.app.commands import system
from cardferry.app.commands.system import Accounts, NoPublicSocketError, serve_everybody
from cardferry.app.hosts.system_readers import GOOD_BYE
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.request import Request
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.policy.authorized import Authorized
from cardferry.policy.polkit import Polkit, Subject

SSH, LOCAL = PrincipalKind.SSH, PrincipalKind.LOCAL_USER


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Handoff], Handoff]:
    """What is known of somebody who comes as the user with that number."""
    monkeypatch.setattr(system, "user_name", {0: "root", 1000: "ada"}.__getitem__)

    def prove(uid: int, handoff: Handoff) -> Handoff:
        monkeypatch.setattr(system, "peer_credentials", lambda connection: (os.getpid(), uid))
        return Accounts(Polkit()).proved(Mock(spec=socket.socket), handoff)

    return prove


@pytest.mark.parametrize(
    ("uid", "said", "known"),
    [
        (1000, (SSH, "ada"), (SSH, "ada")),
        (1000, (SSH, "build1"), (SSH, "ada/build1")),
        (1000, (SSH, "root"), (SSH, "ada/root")),
        (1000, (LOCAL, "root"), (LOCAL, "ada")),
        (1000, (PrincipalKind.VSOCK, "3"), (LOCAL, "ada")),
        (0, (SSH, "build1"), (SSH, "build1")),
        (0, (LOCAL, "ada"), (LOCAL, "root")),
    ],
)
def test_an_account_speaks_for_itself_alone(
    proved: Callable[[int, Handoff], Handoff], uid: int, said: Any, known: Any
) -> None:
    handoff = proved(uid, Handoff("guest", "token", said, Request(record="/etc/passwd")))
    assert handoff.principal == known
    assert handoff.request == Request(), "nor does it say what root shall write, and where"
    assert getattr(handoff, "subject").uid == uid  # noqa: B009 - it is what polkit is asked about


def test_what_is_about_its_guest_alone_is_an_accounts_to_choose(proved: Callable[[int, Handoff], Handoff]) -> None:
    """What is about others is not: bounds of the queue, and how long somebody who is away keeps the card."""
    asked = Request(
        "virtual:", ("PIV*",), "/etc/passwd", 0.1, 0.1, "honour", 1e9, False, 48, 100, "/home/ada/rules", memory=False
    )
    granted = proved(1000, Handoff("guest", principal=(SSH, "ada"), request=asked)).request
    assert granted == Request(offered=("PIV*",), accelerate=False, memory=False)


class Own:
    """This computer's readers; serves somebody, and calls back meanwhile."""

    def __init__(self, meanwhile: Callable[[Any], Awaitable[None]]) -> None:
        self.host: Any = self
        self.served: Any = Mock()
        self.served.name = "pcscd:/behind"
        self.asked: list[Request] = []
        self._meanwhile = meanwhile

    async def serve(self, pipe: object, principal: Principal, guest: str, leaving: Any) -> None:
        await self._meanwhile(leaving)

    @asynccontextmanager
    async def open_as(self, request: Request) -> AsyncIterator[Any]:
        self.asked.append(request)
        yield self


@pytest.fixture
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    """All who come are ada's, whose number is 1000."""
    monkeypatch.setattr(system, "peer_credentials", lambda connection: (os.getpid(), 1000))
    monkeypatch.setattr(system, "user_name", lambda uid: "ada")


@pytest.mark.usefixtures("ada")
async def test_guests_are_asked_about_as_the_session_that_brought_them(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, ada = Accounts(Polkit()), Principal(SSH, "ada")
    found: list[Subject | None] = []

    async def look(leaving: Any) -> None:
        found.append(accounts._subject(Caller(ada, session=7)))
        found.append(accounts._subject(Caller(ada)))

    own: Any = Own(look)
    accounts.serve_with(own, own.open_as)
    mine, theirs = socket.socketpair()
    told: list[Any] = []
    with mine, theirs:
        handoff = accounts.proved(theirs, Handoff("guest", principal=(SSH, "ada")))
        await accounts.receive(Mock(), handoff, told.append)
        assert [subject and subject.uid for subject in found] == [1000, None]
        assert accounts._subject(Caller(ada, session=7)) is None, "it has gone"
        assert own.asked == [Request("pcscd:/behind")]
        assert accounts.servings() == [own]
        assert told == []
        assert isinstance(accounts.around(Mock()), Authorized)

        async def no(*_: object) -> bool:
            return False

        monkeypatch.setattr(Polkit, "may", no)
        await accounts.receive(Mock(), handoff, told.append)
    assert told[0].code == 32
    assert "polkit keeps cards from ada" in told[0].error
    assert len(found) == 2


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("word", [GOOD_BYE, b""])
async def test_who_has_brought_a_guest_says_whether_its_session_ends_or_just_goes(word: bytes) -> None:
    accounts = Accounts(Polkit())
    heard: list[bool] = []

    async def wait(leaving: Any) -> None:
        mine.send(word) if word else mine.close()
        heard.append(await leaving)

    own: Any = Own(wait)
    accounts.serve_with(own, own.open_as)
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.setblocking(False)
        await accounts.receive(Mock(), accounts.proved(theirs, Handoff("guest", principal=(SSH, "ada"))), Mock())
    assert heard == [bool(word)]


async def test_without_systemd_there_is_no_public_socket() -> None:
    with pytest.raises(NoPublicSocketError, match="nobody has opened /run/pcscd/pcscd"):
        await serve_everybody([])
