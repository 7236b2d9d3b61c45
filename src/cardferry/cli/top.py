"""``cardferry top``: what ``status`` shows, again and again on one screen."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import click

from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.cli.say import say
from cardferry.cli.seconds import SecondsType
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.text import shown

#: Columns of what is read in a pipe.
_COLUMNS: Final = 80
#: Lines of a terminal that does not tell.
_LINES: Final = 24
_QUIT: Final = ("q", "\x03", "")
#: Each key: how it is called, and what readers are sorted by; the most first, but for names.
_SORTS: Final[Mapping[str, tuple[str, Callable[[SlotStatus, float], tuple[float, str]]]]] = {
    "r": ("reader", lambda slot, rate: (0.0, slot.reader)),
    "w": ("waiting", lambda slot, rate: (-len(slot.waiters), slot.reader)),
    "h": ("held", lambda slot, rate: (-slot.held, slot.reader)),
    "c": ("commands", lambda slot, rate: (-rate, slot.reader)),
}
_NAMES: Final = [name for name, _ in _SORTS.values()]


@click.command("top")
@click.option("--once", is_flag=True, help="print one screen and end")
@click.option("--sort", type=click.Choice(_NAMES), default="waiting", show_default=True)
@click.option(
    "--every", type=SecondsType(zero=False), default=1.0, show_default=True, metavar="S", help="look so often"
)
def command(once: bool, sort: str, every: float) -> None:
    """Show live who has a card, who waits and how long it will take, and how links do.

    Keys: r, w, h and c sort by reader, by how many wait, by how long somebody has the card, by commands a second; q
    quits.
    """
    screen = Screen(sort)
    if once or not sys.stdout.isatty() or not sys.stdin.isatty():
        for line in screen.lines(_ask(), time.monotonic(), _COLUMNS):
            say(line)
        return
    from rich.console import Console  # noqa: PLC0415 - for this one alone
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False, markup=False)
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        running, due = _ask(), time.monotonic() + every
        while True:
            lines = screen.lines(running, time.monotonic(), console.width)
            live.update(Text("\n".join(lines[: console.height or _LINES]), no_wrap=True), refresh=True)
            pressed = key(max(0.0, due - time.monotonic()))
            if pressed in _QUIT:
                return
            screen.press(pressed)
            if pressed is None:
                running, due = _ask(), time.monotonic() + every


def _ask() -> list[Running]:
    return control.all_running(runtime_folder(), lambda *_: None)


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Keys one by one, for the block: a call waits for one for so many s, and returns None when none came."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(patience: float) -> str | None:
        if not select.select([descriptor], [], [], patience)[0]:
            return None
        return os.read(descriptor, 1).decode("ascii", "replace")

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Screen:
    """What is shown, and how it is sorted.

    Args:
        sort: the name of a key.
    """

    def __init__(self, sort: str = "waiting") -> None:
        self.sort = sort
        self._seen: dict[str, tuple[int, float]] = {}
        self._rates: dict[str, float] = {}

    def press(self, key: str | None) -> None:
        """A key was pressed; those that mean nothing are left out."""
        if key is not None and key in _SORTS:
            self.sort = _SORTS[key][0]

    def lines(self, running: list[Running], now: float, columns: int) -> list[str]:
        """The screen, each line at most so many columns.

        Args:
            now: in s, on any clock.
        """
        slots: dict[tuple[int, str], SlotStatus] = {}
        for one in running:
            for slot in one.readers:
                slots.setdefault((one.agent or one.pid, slot.reader), slot)
        rates = {which: self._rate(f"{which}", slot, now) for which, slot in slots.items()}
        by = next(order for name, order in _SORTS.values() if name == self.sort)
        waiting = sum(len(slot.waiters) for slot in slots.values())
        found = [
            f"cardferry: {len(slots)} readers, {waiting} waiting; by {self.sort} (r w h c), q quits",
            "",
            f"{'reader':<30} {'cmd/s':>6} {'turn':>7}  held by",
        ]
        for which, slot in sorted(slots.items(), key=lambda item: by(item[1], rates[item[0]])):
            found += _reader(slot, rates[which], columns)
        links = [link for one in running for link in one.links if link.link is not None or link.guest is not None]
        if links:
            found += ["", f"{'link':<30} {'trip':>8} {'resumes':>7} {'believed':>8} {'refuted':>7}  state"]
            found += [_link(link) for link in links]
        if not running:
            found += ["", "nothing is attached or shared"]
        return [_cut(line, columns) for line in found]

    def _rate(self, which: str, slot: SlotStatus, now: float) -> float:
        """Commands a second since the last look."""
        commands = slot.commands or 0
        before, then = self._seen.get(which, (commands, now))
        if now > then or which not in self._seen:
            self._seen[which] = commands, now
            self._rates[which] = max(0, commands - before) / (now - then) if now > then else 0.0
        return self._rates.get(which, 0.0)


def _reader(slot: SlotStatus, rate: float, columns: int) -> list[str]:
    turn = "" if slot.mean_turn is None else _seconds(slot.mean_turn)
    if slot.holder is not None:
        holder = f"{_seconds(slot.held)} {slot.principal or '?'}: {slot.holder}"
    else:
        holder = "nobody" if slot.atr else "no card"
    lines = [f"{_cut(slot.reader, 30):<30} {rate:>6.1f} {turn:>7}  {holder}"]
    for waiter in slot.waiters:
        more = "" if waiter.expected is None else f", about {_seconds(waiter.expected)} more"
        times = f"waits {_seconds(waiter.waiting)}{more}"
        who = _cut(f"{waiter.place:>4}. {waiter.principal}: {waiter.client}", columns - len(times) - 2)
        lines.append(f"{who}  {times}")
    return lines


def _link(link: Link) -> str:
    ours, theirs = link.link, link.guest
    state = link.state
    if theirs is not None:
        host, trip, resumes = f"{theirs.principal}", theirs.round_trip, theirs.resumes
        believed, refuted = theirs.believed, theirs.refuted
    elif ours is not None:
        host, trip, resumes = link.host, ours.round_trip, ours.resumes
        believed, refuted = ours.counters.believed, ours.counters.refuted
    else:
        return link.host
    trips = "?" if trip is None else f"{trip * 1000:.1f} ms"
    return f"{_cut(host, 30):<30} {trips:>8} {resumes:>7} {believed:>8} {refuted:>7}  {state}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _cut(text: str, columns: int) -> str:
    """Words of anybody, on so many columns."""
    text = shown(text, max(columns, 1) * 4)
    return text if len(text) <= columns else text[: max(0, columns - 1)] + "…"
