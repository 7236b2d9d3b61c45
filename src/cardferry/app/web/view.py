"""The page's text: values of the agent in templates. All that comes from others is on one line, and is no markup."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from cardferry.app.commands.guests import Guest
from cardferry.app.runtime.status_socket import Running
from cardferry.app.web.questions import OpenQuestion
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.text import shown

#: What is live, in the page's order.
SECTIONS: Final = ("questions", "readers", "guests", "joined", "audit")
_MOST_WORDS: Final = 300


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see at one moment.

    Attributes:
        running: what the agent tells.
        question: that waits for an answer.
        joined: guests over TLS, and invitations.
        notes: lines about them.
        audit: entries, the newest one first; None where nothing is written down.
        now: s since 1970.
        configured: whether there is a configuration file.
    """

    running: Running | None
    question: OpenQuestion | None = None
    joined: Iterable[Guest] = ()
    notes: Iterable[str] = ()
    audit: list[dict[str, Any]] | None = None
    now: float = 0.0
    configured: bool = False


def sections(seen: Seen) -> dict[str, str]:
    """The text of each section."""
    running = seen.running
    values: Mapping[str, Any] = {
        "question": seen.question,
        "readers": [] if running is None else [_reader(slot, seen) for slot in running.readers],
        "troubles": [] if running is None else running.troubles,
        "guests": [] if running is None else [link.guest for link in running.links if link.guest is not None],
        "joined": seen.joined,
        "notes": seen.notes,
        "audit": seen.audit,
        "configured": seen.configured,
        "asks": [] if running is None else running.asks,
    }
    return {name: render(f"{name}.html", **values) for name in SECTIONS}


def render(name: str, /, **values: Any) -> str:
    """A template with values."""
    return _environment().get_template(name).render(**values)


def page(name: str, /, **values: Any) -> str:
    """A whole page; values that are rendered already are `Markup`."""
    return render(name, computer=_computer(), **values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("cardferry.app.web"),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(clock=_clock, since=_since, span=span, milliseconds=_milliseconds)
    return made


def _shown(value: Any) -> Any:
    """The one door for words of others, which no template can leave out."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shown(value, _MOST_WORDS)
    return value


def _computer() -> str:
    from cardferry.app.runtime.paths import this_computer  # noqa: PLC0415 - it may change

    return this_computer()


def _reader(slot: SlotStatus, seen: Seen) -> dict[str, Any]:
    without = "does not answer" if "present" in slot.state else "none"
    waiting = [{"who": waiter, "since": seen.now - waiter.waiting} for waiter in slot.waiters]
    return {
        "slot": slot,
        "card": (slot.card or "a card") if slot.atr else without,
        "since": seen.now - slot.held,
        "waiting": waiting,
    }


def _clock(seconds: float) -> str:
    """A time of day, with the date where it is another day's."""
    form = "%H:%M:%S" if time.strftime("%x", time.localtime(seconds)) == time.strftime("%x") else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(seconds))


def _since(seconds: float) -> Markup:
    """Since when, for a page that counts on by itself; for one that does not, the time of day."""
    return Markup('<time data-since="{}">since {}</time>').format(round(seconds), _clock(round(seconds)))


def span(seconds: float | None) -> str:
    """How long something takes, in words."""
    if seconds is None:
        return "not known yet"
    if seconds < 1:
        return "less than 1 s"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def _milliseconds(seconds: float | None) -> str:
    return "not measured yet" if seconds is None else f"{seconds * 1000:.1f} ms"
