"""When a rule holds: days of the week and times of the day, as ``Mo-Fr 07:00-19:00, Sa 09:00-12:00``.

In the host's local time. Days may be left out (every day), and so may times (all day). A time span that ends before it
begins goes on past midnight, and belongs to the day on which it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_DAYS: Final = ("mo", "tu", "we", "th", "fr", "sa", "su")
_DAY: Final = "|".join(_DAYS)
_SPAN: Final = re.compile(
    rf"(?:(?P<first>{_DAY})(?:-(?P<last>{_DAY}))?)?\s*"
    r"(?:(?P<begin>\d\d?:\d\d)-(?P<end>\d\d?:\d\d))?",
    re.IGNORECASE,
)
_WHOLE_DAY: Final = 24 * 60
_WEEK: Final = range(7)


@dataclass(frozen=True, slots=True)
class _Span:
    """Days as `datetime.weekday` counts them; minutes since midnight."""

    days: frozenset[int]
    begin: int
    end: int

    def holds(self, moment: datetime) -> bool:
        minute = moment.hour * 60 + moment.minute
        if self.begin < self.end:
            return moment.weekday() in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return moment.weekday() in self.days
        return minute < self.end and (moment - timedelta(days=1)).weekday() in self.days


@dataclass(frozen=True, slots=True)
class Hours:
    """Some time spans."""

    spans: tuple[_Span, ...]

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read them; raises `ValueError` in words for people."""
        return cls(tuple(_span(part.strip()) for part in text.split(",")))

    def hold(self, moment: datetime) -> bool:
        """Whether the moment, in local time, is in one of them."""
        return any(span.holds(moment) for span in self.spans)


def _span(text: str) -> _Span:
    found = _SPAN.fullmatch(text)
    if not text or found is None:
        raise ValueError(f"{text!r} is no time span such as Mo-Fr 07:00-19:00")
    days = _days(found["first"], found["last"])
    begin, end = _minutes(found["begin"] or "0:00"), _minutes(found["end"] or "24:00")
    if begin == end:
        raise ValueError(f"{text!r} begins when it ends")
    return _Span(days, begin, end)


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(_WEEK)
    begin, end = _DAYS.index(first.lower()), _DAYS.index((last or first).lower())
    return frozenset((begin + more) % 7 for more in range((end - begin) % 7 + 1))


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    total = hours * 60 + minutes
    if minutes >= 60 or total > _WHOLE_DAY:
        raise ValueError(f"{text} is no time of the day")
    return total
