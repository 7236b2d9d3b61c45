"""One run: every way open at a site of its own, all measured in turn, so that what disturbs one disturbs all.

Over a distance the ways are measured at the same time instead: they spend it waiting, not computing, and each has
its own pcscd and cards, so they do not meet.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.lab.cards import CardInReader, fake_card, piv_card
from tests.lab.lab import Lab
from tests.lab.process import LabError

from bench.figures import Figures
from bench.metrics import CALLS, PROGRAMS, ROUND_TRIP, Distance, Effort, Metric
from bench.quiet import Patience
from bench.ways import OpenWay, Site, Way

Say = Callable[[str], None]
Cell = tuple[Distance, str, str]


class Bench:
    """The sites, one for each way.

    Args:
        lab: where to build.
        ways: what to compare.
        patience: with the rest of the machine.
        say: told what happens, for who waits.
    """

    def __init__(self, lab: Lab, ways: Sequence[Way], patience: Patience, say: Say) -> None:
        self._patience = patience
        self._say = say
        self._sites = {way: Site(lab, number) for number, way in enumerate(ways)}
        self._durations: dict[Cell, list[float]] = {}

    def measure(self, distance: Distance, effort: Effort) -> None:
        """Open the ways over that distance and measure; the computers do not come near again."""
        sites = {way: site for way, site in self._sites.items() if way.remote or distance is Distance.NEAR}
        if distance is Distance.FAR:
            for site in sites.values():
                site.move_apart(ROUND_TRIP)
        self._say(f"{distance}: calls")
        with _cards(sites.values(), (fake_card,)), _opened(sites) as opened:
            for number in range(effort.rounds):
                self._all(distance, opened, number, CALLS, effort.counts)
        self._say(f"{distance}: programs")
        with _cards(sites.values(), (piv_card, piv_card)), _opened(sites) as opened:
            for number in range(max(effort.program_rounds.values())):
                metrics = [metric for metric in PROGRAMS if number < effort.program_rounds[metric.key]]
                self._all(distance, opened, number, metrics, effort.counts)

    def figures(self) -> dict[Cell, Figures]:
        """The figures of all that was measured so far."""
        return {cell: Figures.of(durations) for cell, durations in self._durations.items()}

    def _all(
        self,
        distance: Distance,
        opened: Mapping[Way, OpenWay],
        number: int,
        metrics: Sequence[Metric],
        counts: Mapping[str, int],
    ) -> None:
        """One round: every metric over every way."""

        def one(way: Way) -> None:
            for metric in metrics:
                durations = _measured(opened[way], self._sites[way], metric, counts)
                self._durations.setdefault((distance, metric.key, way.key), []).extend(durations)

        if distance is Distance.FAR:
            with ThreadPoolExecutor(len(opened)) as threads:
                list(threads.map(one, opened))
            return
        self._patience.wait()
        ways = list(opened)
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            one(way)


def _measured(way: OpenWay, site: Site, metric: Metric, counts: Mapping[str, int]) -> list[float]:
    if not metric.argv:
        answer = way.ask(order=metric.key, reader=site.recipe.pcscd.reader(), count=counts[metric.key])
    else:
        answer = way.ask(order="program", argv=metric.argv)
        if answer["code"] or not re.search(metric.proof, answer["out"]):
            raise LabError(f"{' '.join(metric.argv)} did not do its work: {answer}")
    durations: list[float] = answer["durations"]
    return durations


@contextlib.contextmanager
def _cards(sites: Collection[Site], kinds: Sequence[Callable[..., CardInReader]]) -> Iterator[None]:
    """A card of each kind in the readers of each site."""

    def insert(site: Site) -> list[CardInReader]:
        return [kind(site.recipe.pcscd, slot) for slot, kind in enumerate(kinds)]

    with ThreadPoolExecutor(len(sites)) as threads:
        cards = [card for inserted in threads.map(insert, sites) for card in inserted]
        yield
        list(threads.map(CardInReader.remove, cards))


@contextlib.contextmanager
def _opened(sites: Mapping[Way, Site]) -> Iterator[dict[Way, OpenWay]]:
    """The ways, open."""
    opened = {way: way.open(site) for way, site in sites.items()}
    yield opened
    for way in opened.values():
        way.close()
