"""What the page says of others: on one line, and never as markup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardferry.app.commands.guests import Guest
from cardferry.app.web import view
from cardferry.app.web.questions import OpenQuestion
from tests.app.web.seen import guest, seen, slot

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e\"'><img src=x onerror=alert(1)>\nX"


def test_readers_who_has_them_and_who_waits_for_how_long() -> None:
    text = view.sections(seen(slot()))["readers"]
    for words in ("Reader 00 00", "PIV", "3b00", "ssh on build1", "ssh:build1", "gpg 1", "ssh:build2", "about 3 s"):
        assert words in text
    assert f'data-since="{1_700_000_000 - 4}"' in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "not known yet"), (0.2, "less than 1 s"), (12.3, "about 12 s"), (150.0, "about 2 min")],
)
def test_how_long_a_wait_is_in_words(seconds: float | None, words: str) -> None:
    assert view.span(seconds) == words


def test_links_of_guests() -> None:
    text = view.sections(seen(guests=(guest(), guest("tls:away", connected=False))))["guests"]
    for words in ("ssh:build1", "12.3 ms", "8 believed, 9 of them refuted", "tls:away", "out of reach"):
        assert words in text


def test_hostile_words_are_words_everywhere() -> None:
    words = dict.fromkeys(("principal", "program", "what", "rule", "reader"), HOSTILE)
    hostile = replace(
        seen(
            replace(slot(HOSTILE, HOSTILE), card=HOSTILE, clients=[HOSTILE], principal=HOSTILE),
            guests=(replace(guest(HOSTILE), guest=HOSTILE, software=HOSTILE),),
        ),
        question=OpenQuestion(1, HOSTILE, True, 0.0),
        joined=[Guest(HOSTILE, address=HOSTILE, software=HOSTILE, joined=1.0)],
        notes=[HOSTILE],
        audit=[{"at": 1.0, "event": HOSTILE, **words}],
    )  # fmt: skip
    sections = view.sections(hostile)
    for name, text in sections.items():
        assert "&lt;script&gt;" in text, name
        for raw in ("<script", "<img", "\x1b", "\u202e", "onerror=alert(1)>\n"):
            assert raw not in text, name
    page = view.page("message.html", title=HOSTILE, says=HOSTILE, hint=HOSTILE, onward=False)
    assert "<script>alert" not in page
    assert "<img" not in view.page("invited.html", line=HOSTILE, name=HOSTILE, notes=[HOSTILE])


def test_sections_are_the_same_while_nothing_changes_but_the_time() -> None:
    now = seen(slot())
    aged = replace(slot(), held=4.5, waiters=[replace(one, waiting=2.5) for one in slot().waiters])
    later = replace(seen(aged), now=now.now + 0.5)
    assert view.sections(now) == view.sections(later)


def test_what_audit_says_when_there_is_none() -> None:
    without = view.sections(seen())["audit"]
    assert "Nothing is written down: that begins with a configuration file" in without
    off = view.sections(replace(seen(), configured=True))["audit"]
    assert "Nothing is written down: the configuration says so" in off
    assert "Nothing has happened" in view.sections(replace(seen(), audit=[]))["audit"]
