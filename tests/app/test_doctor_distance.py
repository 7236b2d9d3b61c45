"""What ``doctor`` says of the distance to a host that is attached."""

from __future__ import annotations

from cardferry.app.doctor.distance import distance
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.link import GuestStatus
from cardferry.link.guest_session import Counters


def running(round_trip: float | None, counters: Counters) -> Running:
    status = GuestStatus("up", "far", "", round_trip, "", 1, 0, 0, 0, 0, 0, 0, counters)
    links = [Link("far", "up", "/socket", "link", status), Link("near", "up", "/socket")]
    return Running("attach", 1, 0.0, links, 0, [])


def test_it_says_what_waiting_has_cost_and_what_was_saved() -> None:
    (finding,) = distance("far", [running(0.05, Counters(round_trips=20, believed=70, hits=10))])
    assert finding.says == (
        "50.0 ms there and back: 20 calls waited for it, 1.0 s in all; 80 of 100 were known before, "
        "which has saved 4.0 s"
    )


def test_it_says_nothing_of_a_link_that_was_not_used_or_is_none() -> None:
    assert list(distance("far", [running(None, Counters(round_trips=1)), running(0.05, Counters())])) == []
    assert list(distance("near", [running(0.05, Counters(round_trips=1))])) == []
