"""What the service of the whole computer shows to whom."""

from __future__ import annotations

from dataclasses import replace

from cardferry.app.commands.system_status import shown_to
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus, WaiterStatus

ADA, BOB = "opensc-tool (process 7, user 1000)", "gpg (process 8, user 1001)"


def guest(principal: str, name: str) -> Link:
    status = HostSessionStatus(principal, name, "cardferry", True, 0.1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0)
    return Link(name, "up", "/run/x", "link", guest=status)


SLOT = SlotStatus(
    "Reader 00 00", "present", "3b00", "T1", 1, 1, [ADA, BOB, "ssh on build1", "ssh on build2"],
    BOB, "local-user:bob", 2.0,
    [
        WaiterStatus(ADA, "local-user:ada", 1.0),
        WaiterStatus("ssh on build2", "ssh:bob/build2", 0.5),
        WaiterStatus("ssh on build1", "ssh:ada/build1", 0.2),
    ],
    "PIV",
)  # fmt: skip
HERE, LAPTOP = (
    Link("this computer", "up", "/run/pcscd/pcscd.comm"),
    Link("laptop", "up", "/run/pcscd/pcscd.comm", "link"),
)
WHOLE = Running(
    "system", 1, 5.0, [HERE, LAPTOP, guest("ssh:ada/build1", "build1"), guest("ssh:bob/build2", "build2")], 4, [SLOT], 1
)


def test_an_account_sees_readers_cards_and_its_own_programs_and_guests() -> None:
    shown = shown_to(WHOLE, 1000, "ada")
    assert [link.host for link in shown.links] == ["this computer", "laptop", "build1"]
    (slot,) = shown.readers
    assert (slot.reader, slot.card, slot.atr, slot.held) == ("Reader 00 00", "PIV", "3b00", 2.0)
    assert slot.clients == [ADA, "ssh on build1", "2 of other accounts"]
    assert (slot.holder, slot.principal) == ("another account", "")
    assert [one.client for one in slot.waiters] == [ADA, "another account", "ssh on build1"]
    assert [one.waiting for one in slot.waiters] == [1.0, 0.5, 0.2], "how long the queue is everybody may know"
    assert "bob" not in repr(shown)
    assert "gpg" not in repr(shown)


def test_it_sees_what_it_has_itself_and_that_nobody_has_it() -> None:
    own = replace(WHOLE.readers[0], clients=[ADA], holder=ADA, principal="local-user:ada", waiters=[])
    idle = replace(own, holder=None, principal="")
    neighbour = replace(own, holder="a program of the host itself, at its pcscd", principal="")
    for slot in (own, idle, neighbour):
        whole = Running("system", 1, 5.0, [HERE], 1, [slot], 1)
        assert shown_to(whole, 1000, "ada") == whole


def test_an_account_whose_name_begins_like_anothers_is_another_one() -> None:
    assert [link.host for link in shown_to(WHOLE, 1002, "ad").links] == ["this computer", "laptop"]
    assert [link.host for link in shown_to(WHOLE, 1003, "build1").links] == ["this computer", "laptop"]
