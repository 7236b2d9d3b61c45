"""The numbers of a host as Prometheus knows them, taken at the moment when it asks.

What is counted is counted elsewhere, in plain numbers: `cardferry.manager.counts`, `cardferry.policy.guard.host` and
`cardferry.link.host_status`. Readers and principals are at most 64 each there; those beyond are ``other``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cardferry.app.agent.serving import Serving
from cardferry.labelled import Labelled
from cardferry.manager.status import SlotStatus
from cardferry.policy.guard.host import GuardCount

_BOTH: Final = ("reader", "principal")
#: Metric, what it says, and which attribute of what is counted it is.
_AT_CARDS: Final = (
    ("commands", "Commands that were sent to the card", "commands"),
    ("card_seconds", "Seconds until the card had answered them", "card_seconds"),
    ("turns", "Turns with the card", "turns"),
    ("turn_seconds", "Seconds of these turns", "turn_seconds"),
    ("waits", "Turns that had to be waited for", "waits"),
    ("wait_seconds", "Seconds of waiting for them", "wait_seconds"),
    ("hand_overs", "Turns that came after one of another program", "hand_overs"),
    ("evictions", "Transactions that were taken away because others waited", "evictions"),
)
_BY_GUARD: Final = (
    ("denials", "Commands that the rules have refused", "denials"),
    ("pin_failures", "Wrong PINs, and what was no ticket", "pin_failures"),
)
_OF_LINKS: Final = (
    ("links", "Links from guests that have begun", "links"),
    ("link_resumes", "Times that a link has gone on with another connection", "resumes"),
    ("memory_hits", "Commands that guests have answered from memory", "believed"),
    ("memory_refuted", "Those of them that the card has answered otherwise", "refuted"),
    ("ahead_hits", "Answers that were there before the program asked", "ahead_hits"),
)


class HostCollector(Collector):
    """Tells what a host does.

    Args:
        serving: what is told of: the readers with all who use them, and the links of guests.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterable[Metric]:
        """All of it, as it is now."""
        served = self._serving.served
        counts = served.manager.counts.values
        at_cards = {(reader, who): one for reader, by in counts.items() for who, one in by.by_principal.values.items()}
        yield from _counters(_AT_CARDS, _BOTH, at_cards)
        refused: dict[str, Labelled[GuardCount]] = {} if served.guard is None else served.guard.counts.values
        by_guard = {(reader, who): one for reader, by in refused.items() for who, one in by.values.items()}
        yield from _counters(_BY_GUARD, _BOTH, by_guard)
        of_links = {(who,): one for who, one in self._serving.host.counts.items()}
        yield from _counters(_OF_LINKS, ("principal",), of_links)
        yield from _now(served.manager.status.readers)
        connected = GaugeMetricFamily("cardferry_links_connected", "Guests whose link is up")
        connected.add_metric((), sum(guest.connected for guest in self._serving.host.status.guests))
        yield connected


def _counters(
    metrics: tuple[tuple[str, str, str], ...], labels: tuple[str, ...], counted: Mapping[Any, object]
) -> Iterator[Metric]:
    for name, says, attribute in metrics:
        metric = CounterMetricFamily(f"cardferry_{name}", says, labels=labels)
        for values, one in counted.items():
            metric.add_metric(values, float(getattr(one, attribute)))
        yield metric


def _now(readers: list[SlotStatus]) -> Iterator[Metric]:
    """What holds at this moment; of the readers that there are."""
    gauges = (
        ("card_present", "Whether there is a card that answers", [bool(one.atr) for one in readers]),
        ("held_seconds", "For how long somebody has had the card", [one.held for one in readers]),
        ("waiting", "Programs that wait for the card", [len(one.waiters) for one in readers]),
        (
            "longest_wait_seconds",
            "For how long the first of them has waited",
            [max((waiter.waiting for waiter in one.waiters), default=0.0) for one in readers],
        ),
    )
    for name, says, values in gauges:
        gauge = GaugeMetricFamily(f"cardferry_{name}", says, labels=("reader",))
        for one, value in zip(readers, values, strict=True):
            gauge.add_metric((one.reader,), float(value))
        yield gauge


def registry(serving: Serving) -> CollectorRegistry:
    """A registry with the numbers of a host, and nothing else."""
    found = CollectorRegistry()
    found.register(HostCollector(serving))
    return found
