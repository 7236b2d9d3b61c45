"""Guests that accounts hand over are that account's, whatever they say."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from cardferry.app.agent.handoff_client import Handoff
from cardferry.app.commands import system
from cardferry.app.commands.system import Accounts, NoPublicSocketError, serve_everybody
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
    assert handoff.request is None, "nor does it say what root shall write, and where"
    assert getattr(handoff, "subject").uid == uid  # noqa: B009 - it is what polkit is asked about


async def test_guests_are_asked_about_as_the_session_that_brought_them(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, ada = Accounts(Polkit()), Principal(SSH, "ada")
    found: list[Subject | None] = []

    class Own:
        """Serves somebody, and looks meanwhile."""

        host: Any

        async def serve(self, *_: object) -> None:
            found.append(accounts._subject(Caller(ada, session=7)))
            found.append(accounts._subject(Caller(ada)))

    own = Own()
    own.host = own
    monkeypatch.setattr(system, "peer_credentials", lambda connection: (os.getpid(), 1000))
    monkeypatch.setattr(system, "user_name", lambda uid: "ada")
    handoff = accounts.proved(Mock(spec=socket.socket), Handoff("guest", principal=(SSH, "ada")))
    told: list[Any] = []
    await accounts.receive(own, Mock(), handoff, told.append)  # type: ignore[arg-type]
    assert [subject and subject.uid for subject in found] == [1000, None]
    assert accounts._subject(Caller(ada, session=7)) is None, "it has gone"
    assert told == []
    assert isinstance(accounts.around(Mock()), Authorized)

    async def no(*_: object) -> bool:
        return False

    monkeypatch.setattr(Polkit, "may", no)
    await accounts.receive(own, Mock(), handoff, told.append)  # type: ignore[arg-type]
    assert told[0].code == 32
    assert "polkit keeps cards from ada" in told[0].error
    assert len(found) == 2


async def test_without_systemd_there_is_no_public_socket() -> None:
    with pytest.raises(NoPublicSocketError, match="nobody has opened /run/pcscd/pcscd"):
        await serve_everybody([])
