"""No bytes that do a thing are taken for a weaker one, nor for a command that only reads.

The witnesses are the built-in PIV card and jcecard's OpenPGP card, which say themselves what they have done. What they
get is in `conversations`. That this finds mistakes in the tables, and in what the tracker follows, is tested by making
such mistakes: `MISTAKES` by name, and each row that acts taken for one that reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardferry.pcsc import commands
from cardferry.policy.operations import Meaning, Operation, Tracker, iso, openpgp, piv, tracker
from tests.policy.operations.conversations import CARDS, conversation, forgotten, weaker

_QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
_SLOW = settings(_QUICK, max_examples=20_000)
_CARDS = pytest.mark.parametrize("card", CARDS)
_READ = iso.always(Meaning(Operation.READ))
_WRITE = iso.always(Meaning(Operation.WRITE))


@pytest.fixture(autouse=True)
def quiet_cards() -> Iterator[None]:
    """jcecard tells each command and each refusal, and there are very many."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def talk(card: str, seed: int) -> None:
    """One conversation."""
    random = Random(seed)
    commands = conversation(card, random)
    found = weaker(card, commands, blocked=random.random() < 0.2)
    assert found is None, [found, *(each.hex() for each in commands)]


@_CARDS
def test_what_a_card_does_is_never_taken_for_something_weaker(card: str) -> None:
    _QUICK(given(st.integers(0, 2**64))(lambda seed: talk(card, seed)))()


@_CARDS
def test_what_was_judged_once_holds_as_long_as_the_tracker_says_so(card: str) -> None:
    def judge(seed: int) -> None:
        commands = conversation(card, Random(seed))
        found = forgotten(card, commands)
        assert found is None, [found, *(each.hex() for each in commands)]

    settings(_QUICK, max_examples=200)(given(st.integers(0, 2**64))(judge))()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@_CARDS
def test_what_a_card_does_is_never_taken_for_something_weaker_in_many_conversations(card: str) -> None:
    _SLOW(given(st.integers(0, 2**64))(lambda seed: talk(card, seed)))()


def _is_found(card: str) -> bool:
    for seed in range(1500):
        try:
            talk(card, seed)
        except AssertionError:
            return True
    return False


Mistake = Callable[[pytest.MonkeyPatch], None]


def _row(table: Mapping[int, object], instruction: int, rule: object) -> Mistake:
    return lambda patch: patch.setitem(table, instruction, rule)


MISTAKES: dict[str, tuple[str, Mistake]] = {
    "VERIFY with a PIN reads": ("PIV", _row(iso._RULES, 0x20, _READ)),
    "9D is there to sign with": ("PIV", _row(piv.PURPOSE, 0x9D, Operation.SIGN)),
    "agreeing on a secret is answering a challenge": ("PIV", lambda patch: patch.setattr(piv, "_CHALLENGE", 0x85)),
    "a YubiKey's RESET writes": ("PIV", _row(piv.RULES, 0xFB, _WRITE)),
    "importing an OpenPGP key writes": ("OpenPGP", _row(openpgp.RULES, 0xDB, _WRITE)),
    "the PIN's status is data": ("OpenPGP", _row(openpgp._SPECIAL, 0xC4, Meaning(Operation.WRITE, "C4"))),
    "GENERATE KEY PAIR reads, whatever P1 is": ("OpenPGP", _row(openpgp.RULES, 0x47, _READ)),
    "what is no command reads": ("OpenPGP", lambda patch: patch.setattr(tracker, "UNCERTAIN", Meaning(Operation.READ))),
    "chains are not followed": ("PIV", lambda patch: patch.setattr(Tracker, "_follow_chain", lambda *_: None)),
    "a broken chain is forgotten": ("OpenPGP", lambda patch: patch.setattr(tracker, "_put_together", lambda *_: ())),
    "what is uncertain leaves no doubt": ("OpenPGP", lambda patch: patch.setattr(Tracker, "_doubt", lambda *_: None)),
    "asking for the tries left may have a body": (
        "PIV",
        lambda patch: patch.setitem(commands._READING, (0x00, 0x20), lambda command: command.p1 == 0),
    ),
    "writing PIV data only reads": (
        "PIV",
        lambda patch: patch.setitem(commands._READING, (0x00, 0xDB), lambda command: True),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card, mistake = MISTAKES[name]
    mistake(monkeypatch)
    assert _is_found(card)


def _acting_rows() -> Iterator[tuple[str, str, int]]:
    """All that the cards can do: by PIV's GENERAL AUTHENTICATE and so on."""
    yield from (("PIV", "piv", instruction) for instruction in (0x47, 0x87, 0xDB, 0xFA, 0xFB, 0xFE, 0xFF))
    yield from (("OpenPGP", "openpgp", instruction) for instruction in (0x2A, 0x47, 0x88, 0xDA, 0xDB))
    yield from (("OpenPGP", "iso", instruction) for instruction in (0x20, 0x24, 0x2C, 0x44, 0xE6))


@pytest.mark.parametrize(("card", "table", "instruction"), [*_acting_rows()])
def test_a_row_that_acts_but_is_taken_for_reading_is_found(
    card: str, table: str, instruction: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"piv": piv.RULES, "openpgp": openpgp.RULES, "iso": iso._RULES}[table]
    monkeypatch.setitem(rules, instruction, _READ)
    assert _is_found(card)
