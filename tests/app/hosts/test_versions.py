"""Which end is older, and what it is told."""

from __future__ import annotations

import pytest

from cardferry.app.hosts import versions
from cardferry.app.hosts.versions import difference, refusal
from cardferry.wire.link.greeting import Hello, Role, VersionError, agree


@pytest.fixture(autouse=True)
def _this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "__version__", "1.10.0")
    monkeypatch.setattr(versions, "this_computer", lambda: "build1")


def test_who_is_older_is_told_how_to_catch_up() -> None:
    assert difference("laptop", "cardferry 1.9.2") == (
        "laptop has cardferry 1.9.2, this is 1.10.0; to bring it up to date: cardferry setup laptop"
    )
    assert difference("laptop", "cardferry 2.0.0") == (
        "laptop has cardferry 2.0.0, this is 1.10.0; "
        "to catch up: uv tool upgrade cardferry; or over there, cardferry setup build1"
    )


@pytest.mark.parametrize("software", ["cardferry 1.10.0", "", "cardferry"])
def test_nothing_is_said_where_there_is_no_difference(software: str) -> None:
    assert difference("laptop", software) == ""


def refused(other: tuple[int, int]) -> str:
    mine, theirs = (
        Hello(role, b"x" * 16, False, 0, 0, *ages) for role, ages in ((Role.GUEST, (1, 1)), (Role.HOST, other))
    )
    with pytest.raises(VersionError) as error:
        agree(mine, theirs)
    return str(error.value)


def test_a_refusal_names_what_the_older_end_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("laptop", refused((3, 2))).startswith("to catch up: uv tool upgrade cardferry")
    monkeypatch.setattr(versions, "VERSION", 3)  # as if it were this end that is newer
    assert refusal("laptop", refused((3, 2))) == "to bring it up to date: cardferry setup laptop"
    assert refusal("", refused((3, 2))) == "bring that one up to date"
