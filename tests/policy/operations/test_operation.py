"""Which operation is the stronger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardferry.policy.operations import Meaning, Operation
from cardferry.policy.operations.operation import UNCERTAIN, strongest

_MEANINGS = st.builds(Meaning, st.sampled_from(Operation), st.sampled_from((None, "9A", "9C")))
_OF_CARDS = _MEANINGS.filter(lambda each: each.operation is not Operation.CONTROL)


def test_reading_is_the_weakest_and_what_is_not_known_the_strongest() -> None:
    for operation in set(Operation) - {Operation.CONTROL, Operation.READ}:
        assert Meaning(operation, "9C").covers(Meaning(Operation.READ))
        assert UNCERTAIN.covers(Meaning(operation))
        assert operation is Operation.OTHER or not Meaning(operation).covers(UNCERTAIN)


def test_operations_with_keys_are_not_comparable() -> None:
    operations = (Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE, Operation.VERIFY, Operation.GENERATE)
    for one in operations:
        for other in set(operations) - {one}:
            assert not Meaning(one).covers(Meaning(other, "9C"))
            assert Meaning(one).joined(Meaning(other)) == UNCERTAIN


def test_one_key_is_less_than_some_key() -> None:
    assert Meaning(Operation.SIGN).covers(Meaning(Operation.SIGN, "9C"))
    assert not Meaning(Operation.SIGN, "9C").covers(Meaning(Operation.SIGN))
    assert not Meaning(Operation.SIGN, "9C").covers(Meaning(Operation.SIGN, "9A"))
    assert Meaning(Operation.SIGN, "9C").joined(Meaning(Operation.SIGN, "9A")) == Meaning(Operation.SIGN)


def test_administering_is_more_than_writing() -> None:
    for operation in (Operation.WRITE, Operation.GENERATE, Operation.MANAGE_PIN):
        assert Meaning(Operation.ADMINISTER).covers(Meaning(operation))
        assert not Meaning(Operation.ADMINISTER, "9B").covers(Meaning(operation))
    assert not Meaning(Operation.ADMINISTER).covers(Meaning(Operation.SIGN))
    assert Meaning(Operation.WRITE).joined(Meaning(Operation.MANAGE_PIN)) == Meaning(Operation.ADMINISTER)
    assert Meaning(Operation.WRITE).joined(Meaning(Operation.ADMINISTER, "9B")) == Meaning(Operation.ADMINISTER)


def test_a_command_to_the_reader_is_comparable_with_nothing() -> None:
    for operation in set(Operation) - {Operation.CONTROL}:
        assert not Meaning(operation).covers(Meaning(Operation.CONTROL))
        assert not Meaning(Operation.CONTROL).covers(Meaning(operation))


@given(_MEANINGS, _MEANINGS, _MEANINGS)
def test_it_is_an_order(one: Meaning, two: Meaning, three: Meaning) -> None:
    assert one.covers(one)
    if one.covers(two) and two.covers(three):
        assert one.covers(three)


@given(_OF_CARDS, _OF_CARDS, _OF_CARDS)
def test_joined_is_the_weakest_that_is_as_strong_as_both(one: Meaning, two: Meaning, three: Meaning) -> None:
    both = one.joined(two)
    assert both.covers(one)
    assert both.covers(two)
    if three.covers(one) and three.covers(two):
        assert three.covers(both)
    assert strongest((one, two, three)).covers(three)
