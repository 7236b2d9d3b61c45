"""What the distance to a host costs, as the link that is up has counted it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cardferry.app.doctor.finding import Finding, ok
from cardferry.app.runtime.status_socket import Running


def distance(host: str, running: Iterable[Running]) -> Iterator[Finding]:
    """One finding for each link to that host that has been used; nothing where there is none.

    Args:
        host: as on the command line.
        running: everything of ours that runs here.
    """
    for link in (link for one in running for link in one.links if link.host == host):
        status = link.link
        if status is None or status.round_trip is None or not status.counters.round_trips:
            continue
        waited, believed = status.counters.round_trips, status.counters.believed + status.counters.hits
        took, saved = waited * status.round_trip, believed * status.round_trip
        yield ok(
            f"distance to {host}",
            f"{status.round_trip * 1000:.1f} ms there and back: {waited} calls waited for it, {took:.1f} s in all; "
            f"{believed} of {waited + believed} were known before, which has saved {saved:.1f} s",
        )
