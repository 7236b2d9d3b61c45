"""What the page shows in tests: an agent with a reader, a link and somebody who waits."""

from __future__ import annotations

from cardferry.app.runtime.status_socket import Link, Running
from cardferry.app.web.view import Seen
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus, WaiterStatus


def guest(name: str = "ssh:build1", *, connected: bool = True) -> HostSessionStatus:
    return HostSessionStatus(
        name, "build1 at 10.0.0.9", "cardferry 2.0", connected, 0.0123, 2, 3, 1, 10, 20, 300, 400, 5, 6, 7, 8, 9
    )  # fmt: skip


def slot(reader: str = "Reader 00 00", holder: str | None = "ssh on build1", waiters: int = 1) -> SlotStatus:
    waiting = [WaiterStatus(f"gpg {number}", "ssh:build2", 2.0, number, 3.2) for number in range(1, waiters + 1)]
    return SlotStatus(
        reader, "present powered", "3b00", "t1", 1, 1, ["ssh on build1"], holder, "ssh:build1", 4.0, waiting, "PIV"
    )  # fmt: skip


def running(*slots: SlotStatus, guests: tuple[HostSessionStatus, ...] = ()) -> Running:
    links = [Link(one.guest, "up", "here", "link", guest=one) for one in guests]
    return Running("host", 1, 1.0, links, 2, list(slots), 1)


def seen(*slots: SlotStatus, guests: tuple[HostSessionStatus, ...] = ()) -> Seen:
    return Seen(running(*slots, guests=guests), now=1_700_000_000.0)
