"""What keeps readers away, in words."""

from __future__ import annotations

import pytest

from cardferry.pcsc.trouble import Cause, Trouble, no_match


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_has_words_and_a_hint_for_what_can_be_done(cause: Cause) -> None:
    trouble = Trouble(cause, "/run/a b", "speaks Latin")
    assert trouble.says
    assert "{" not in trouble.says + trouble.hint
    assert bool(trouble.hint) is (cause is not Cause.OTHER)


def test_it_is_said_where_it_is_and_where_to_do_something_about_it() -> None:
    there = Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm", host="nas")
    assert str(there) == "nas: nobody listens at /run/pcscd/pcscd.comm: pcscd is not running"
    assert there.hint == "on nas: start it: systemctl restart pcscd.socket"
    forwarded = Trouble(Cause.CLOSED, "nas", host="nas")
    assert str(forwarded) == "pcscd at nas closed the connection without an answer"


def test_many_names_are_cut_off() -> None:
    trouble = no_match(("Acme*",), [f"Reader {number}" for number in range(1000)])
    assert len(str(trouble)) < 300
