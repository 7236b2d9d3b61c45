"""What readers are called: no name twice, and each keeps its name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardferry.fleet.naming import ReaderNames
from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.pcsc.reader_name import encode_reader_name

HOSTS = ("laptop", "desk", "desk")

#: Few names, so that they meet; some look like what is made of others.
names = st.sampled_from(
    ["Reader", "Reader (desk)", "Reader (desk 2)", "Reader (laptop)", "é" * 63, "é" * 62 + "x", "\udcfc" * 120]
)
origins = st.tuples(st.integers(0, 2), names)


def test_equal_names_tell_their_host() -> None:
    given_names = ReaderNames()
    assert [given_names.name((number, "Reader"), host) for number, host in enumerate(HOSTS)] == [
        "Reader",
        "Reader (desk)",
        "Reader (desk 2)",
    ]


@given(st.lists(origins))
def test_no_name_twice_and_each_reader_keeps_its_own(asked: list[tuple[int, str]]) -> None:
    given_names = ReaderNames()
    known: dict[tuple[int, str], str] = {}
    for origin in asked:
        name = given_names.name(origin, HOSTS[origin[0]])
        assert known.setdefault(origin, name) == name
        assert given_names.origin(name) == origin
        assert len(encode_reader_name(name)) < MAX_READERNAME
        assert name == origin[1] or f"({HOSTS[origin[0]]}" in name
    assert len(set(known.values())) == len(known) == len(given_names)


@given(st.lists(origins, min_size=1), st.sets(origins))
def test_those_that_are_kept_keep_their_names(asked: list[tuple[int, str]], kept: set[tuple[int, str]]) -> None:
    given_names = ReaderNames()
    before = {origin: given_names.name(origin, HOSTS[origin[0]]) for origin in asked}
    given_names.forget(but=kept)
    assert len(given_names) == len(kept & before.keys())
    for origin in kept & before.keys():
        assert given_names.name(origin, HOSTS[origin[0]]) == before[origin]
    after = {origin: given_names.name(origin, HOSTS[origin[0]]) for origin in asked}
    assert len(set(after.values())) == len(after)


def test_a_name_that_was_never_given_is_nobodys() -> None:
    assert ReaderNames().origin("Reader") is None
