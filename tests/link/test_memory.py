"""What is remembered of a card: which answers, in which state, for whom, and when they are forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from cardferry.link.guest_memory import CardCopy, GuestMemory
from cardferry.link.memory import OVERHEAD, CardMemory, Recollection
from cardferry.link.messages import Answer, Confirmed, Recollected
from cardferry.pcsc.applications import Application
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.wire.errors import WireError
from tests.link import model_card as c
from tests.link.model_card import COUNTER, LONG, PROTECTED, SIGN, VERIFY, WRONG_PIN, ModelCard, get, put, select

ANN, BEN = Principal(PrincipalKind.SSH, "ann"), Principal(PrincipalKind.SSH, "ben")
DISCOVERY = bytes.fromhex("00CB3FFF035C017E00")
PIV = bytes.fromhex("7E124F0BA0000003080000100001005F2F0240009000")
OK = b"\x90\0"


@dataclass
class Site:
    """A card, what is remembered of it, and a guest's copy for each principal."""

    most: int = 1 << 18
    card: ModelCard = field(default_factory=ModelCard)
    copies: dict[Principal, CardCopy] = field(default_factory=lambda: {ANN: CardCopy(), BEN: CardCopy()})

    def __post_init__(self) -> None:
        self.memory = CardMemory("reader", self, self.most)
        self.memory.reset()

    def learnt(self, reader: str, what: Recollection) -> None:
        told = Recollected(what.number, what.where, what.key, what.answer, what.next)
        for principal, copy in self.copies.items():
            if what.bound in (None, principal):
                copy.learn(told)

    def forgotten(self, reader: str, numbers: list[int] | None) -> None:
        for copy in self.copies.values():
            copy.forget(numbers)

    def ask(self, *commands: bytes, who: Principal = ANN) -> bytes:
        """Let the card answer, as the manager would; the last answer."""
        answer = b""
        for apdu in commands:
            answer = self.card.process(apdu)
            self.memory.answered(who, apdu, answer)
        return answer

    def knows(self, *commands: bytes, who: Principal = ANN) -> list[bytes | None]:
        """What that principal's guest would answer from now on, if this is what a program asks."""
        copy = self.copies[who]
        copy.stands(Answer(1, state=self.memory.state, level=self.memory.level, either=self.memory.either))
        answers: list[bytes | None] = []
        for apdu in commands:
            known = copy.find(apdu)
            answers.append(None if known is None else known.answer)
            if known is not None:
                copy.believe(apdu, known)
        return answers

    def reset(self) -> None:
        self.card.reset()
        self.memory.reset()


def test_what_was_answered_is_known_in_the_same_state_and_in_no_other() -> None:
    site = Site()
    site.ask(select(0), get(1), select(1), get(1))
    assert site.knows(get(1), get(2)) == [b"\1\1\0" + OK, None]
    assert site.knows(select(0), get(1), select(1), get(1)) == [OK, b"\0\1\0" + OK, OK, b"\1\1\0" + OK]
    site.reset()
    assert site.knows(get(1)) == [None]
    assert site.knows(select(0), get(1)) == [OK, b"\0\1\0" + OK]


def test_a_select_by_name_is_answered_by_the_security_status_alone() -> None:
    site = Site()
    site.ask(select(0), select(3), select(1), get(1))
    for other in (select(0), select(1), select(2)):
        site.ask(other)
        assert site.knows(select(1), get(1)) == [OK, b"\1\1\0" + OK]
        assert site.knows(select(3)) == [c.NOT_FOUND]


def test_a_refused_select_leaves_what_is_selected() -> None:
    site = Site()
    site.ask(select(0), get(1), select(3))
    assert site.knows(get(1), select(3), get(1)) == [b"\0\1\0" + OK, c.NOT_FOUND, b"\0\1\0" + OK]


@pytest.mark.parametrize("name", [Application.PIV, Application.PKCS15])
def test_a_refused_select_leaves_what_was_selected_this_time(name: Application) -> None:
    names = {Application.PIV: "A000000308", Application.PKCS15: "A000000063504B43532D3135"}
    site = Site()
    refused = bytes.fromhex("00A4040006D2760001240100")
    for each in (*names, name):
        site.memory.answered(ANN, bytes.fromhex(f"00A40400{len(names[each]) // 2:02X}{names[each]}00"), OK)
        site.memory.answered(ANN, refused, c.NOT_FOUND)
    site.memory.answered(ANN, bytes.fromhex("00B0000000"), b"\1" + OK)
    assert list(site.memory.recollections())[-1].applications == {name, Application.OPENPGP}


def test_no_number_of_a_card_that_has_gone_is_used_again() -> None:
    site = Site()
    site.ask(select(0), get(1))
    used = {site.memory.state, site.memory.level}
    site.memory.gone()
    site.memory.reset()
    assert not used & {site.memory.state, site.memory.level}


def test_a_card_that_says_what_is_selected_need_not_be_told() -> None:
    site = Site()
    site.memory.opened(None)
    site.card.selected = 0
    site.memory.answered(ANN, DISCOVERY, PIV)
    site.ask(get(1))
    site.ask(select(0))
    assert site.knows(get(1)) == [site.card.process(get(1))]


def test_a_response_in_pieces() -> None:
    site = Site()
    site.ask(select(0), get(LONG), c.GET_REST)
    assert site.knows(get(LONG), c.GET_REST) == [b"\0\x61\2", b"\7\0" + OK]
    assert site.knows(c.GET_REST) == [None], "it is behind that command only"
    site.ask(get(1), c.GET_REST)
    assert site.knows(c.GET_REST) == [None]


@pytest.mark.parametrize(
    "apdu", [put(3, 1), c.UNHEARD_OF, b"\x0c\xca\0\1\0", b"\0\x24\0\x80\1x", b"\1\xca\0\1\0", b"\0"]
)
def test_what_writes_administers_or_is_unknown_empties_it(apdu: bytes) -> None:
    site = Site()
    site.ask(select(0), get(1))
    assert site.memory.size
    site.memory.answered(ANN, apdu, OK)
    assert (site.memory.size, site.copies[ANN].size) == (0, 0)
    site.ask(select(0))
    assert site.knows(get(1)) == [None]


def test_an_answer_that_changes_by_itself_is_never_believed_again() -> None:
    site = Site()
    site.ask(select(0), get(1), get(c.CLOCK))
    assert site.knows(get(c.CLOCK)) != [None]
    site.ask(get(c.CLOCK))
    assert site.memory.size == 0, "somebody may have changed the card unseen"
    site.ask(select(0), get(1), get(c.CLOCK), get(c.CLOCK))
    assert site.knows(get(1), get(c.CLOCK)) == [b"\0\1\0" + OK, None]
    site.memory.gone()
    site.memory.reset()
    site.ask(select(0), get(c.CLOCK))
    assert site.knows(get(c.CLOCK)) != [None], "another card"


def test_a_private_key_changes_what_it_has_changed_before_and_nothing_else() -> None:
    site = Site()
    site.ask(select(0), VERIFY, get(1), get(COUNTER), SIGN)
    assert site.knows(get(1), get(COUNTER)) == [None, None]
    site.ask(get(1), get(COUNTER))
    assert None not in site.knows(get(1), get(COUNTER))
    site.ask(SIGN)
    assert site.knows(get(1), get(COUNTER)) == [b"\0\1\0" + OK, None]
    site.ask(get(COUNTER), SIGN, get(COUNTER), SIGN)
    assert site.knows(get(1), get(COUNTER)) == [b"\0\1\0" + OK, None]


def test_what_has_survived_with_one_pin_survives_with_another() -> None:
    site = Site()
    site.ask(select(0), get(1), VERIFY, SIGN, get(1))
    site.ask(SIGN)
    assert None not in site.knows(get(1))


def test_the_first_pin_and_the_first_after_a_wrong_one_change_the_tries() -> None:
    site = Site()
    site.ask(select(0), get(1), c.TRIES, WRONG_PIN)
    assert site.knows(get(1), c.TRIES) == [None, None]
    site.ask(get(1), c.TRIES, VERIFY, c.LOG_OUT)
    assert site.knows(get(1), c.TRIES) == [b"\0\1\0" + OK, None]
    site.ask(c.TRIES, VERIFY, c.LOG_OUT)
    assert site.knows(c.TRIES) == [b"\x63\xc3"]


def test_what_a_pin_unlocks_is_told_to_guests_of_who_has_verified_it() -> None:
    site = Site()
    site.ask(select(0), get(1), VERIFY, get(PROTECTED))
    assert site.knows(get(PROTECTED)) != [None]
    assert site.knows(get(PROTECTED), who=BEN) == [None]
    site.ask(get(2), who=BEN)
    assert site.knows(get(2), who=BEN) == [None], "it was not he who has verified the PIN"
    site.reset()
    site.ask(select(0), get(2), who=BEN)
    assert site.knows(get(2)) == site.knows(get(2), who=BEN) != [None]
    assert not any(each.answer[:2] == b"\0\4" for each in site.copies[BEN]._found.values())


def test_while_it_is_not_certain_that_no_pin_is_verified_each_knows_what_he_was_told() -> None:
    site = Site()
    site.memory.others(present=True)
    site.ask(select(0), get(1))
    assert site.memory.size == site.memory.state == 0, "others are there"
    site.memory.others(present=False)
    site.ask(select(0), get(1))
    site.ask(select(0), get(1), who=BEN)
    assert site.knows(get(1)) == site.knows(get(1), who=BEN) != [None]
    site.ask(get(2))
    assert site.knows(get(2), who=BEN) == [None]


def test_a_reader_that_was_let_go() -> None:
    site = Site()
    site.ask(select(0), get(1))
    site.memory.opened(1.0)
    assert site.knows(get(1)) == [None]
    assert site.knows(select(0), get(1), who=BEN) == [OK, b"\0\1\0" + OK]
    site.ask(select(0), VERIFY, get(PROTECTED))
    site.memory.opened(1.0)
    site.ask(select(0), get(1), who=BEN)
    assert site.knows(get(1), who=BEN) == [None], "the card may still be open for the other one"
    site.memory.opened(60.0)
    site.ask(select(0), get(1), who=BEN)
    assert site.knows(get(1), who=BEN) != [None], "by now it has lost its power"


@pytest.mark.parametrize("kept", [True, False])
def test_a_reader_that_was_let_go_for_a_moment_is_as_it_was_left_or_as_after_a_reset(kept: bool) -> None:
    site = Site()
    reading = (select(3), select(0), get(1), get(PROTECTED), c.TRIES)
    site.ask(select(0), VERIFY, c.LOG_OUT, *reading, VERIFY, *reading)
    for _ in range(2):
        if not kept:
            site.card.reset()
        site.memory.opened(1.0)
        assert site.knows(select(3), select(0), get(1)) == [c.NOT_FOUND, OK, b"\0\1\0" + OK]
        assert site.knows(select(0), get(PROTECTED)) == [OK, None]
        assert site.knows(select(0), c.TRIES) == [OK, None]
        site.ask(select(0), get(1), get(2))
        assert site.knows(get(2), get(1)) == [b"\0\2\0" + OK, b"\0\1\0" + OK], "for as long as it is undecided"
        said = site.ask(get(PROTECTED))
        assert site.knows(get(PROTECTED)) == [said]
        assert None not in site.knows(*reading)
        site.ask(VERIFY, get(1))


def test_what_was_said_before_it_was_decided_is_known_then() -> None:
    site = Site()
    reading = (get(1), select(0), get(1), c.TRIES)
    site.ask(select(0), VERIFY, c.LOG_OUT, c.TRIES, VERIFY, *reading)
    site.card.reset()
    site.memory.opened(1.0)
    assert site.knows(get(1)) == [None], "nobody has asked that after a reset"
    site.ask(*reading)
    site.card.reset()
    site.memory.reset()
    assert site.knows(*reading) == [c.NOTHING, OK, b"\0\1\0" + OK, b"\x63\xc3"]


def test_a_pin_decides_it_too() -> None:
    site = Site()
    site.ask(select(0), get(1), VERIFY, get(1), get(PROTECTED))
    site.memory.opened(1.0)
    site.ask(select(0), VERIFY)
    assert None not in site.knows(get(1), get(PROTECTED))


def test_a_card_that_was_in_neither_state_was_changed() -> None:
    site = Site()
    site.ask(select(0), get(1), VERIFY, get(1))
    site.memory.opened(1.0)
    site.card.objects[1] = 9
    site.ask(select(0), get(1))
    assert not site.memory.either
    assert [each.answer for each in site.memory.recollections()] == [b"\0\1\x09" + OK]


@pytest.mark.parametrize("apdu", [get(1), SIGN])
def test_an_answer_that_was_lost(apdu: bytes) -> None:
    site = Site()
    site.ask(select(0), get(1))
    site.memory.answered(ANN, apdu, None)
    assert site.knows(get(1)) == [None], "nor is it known where the card stands"
    assert bool(site.memory.size) is (apdu == get(1))


def test_nothing_is_believed_inside_a_chain() -> None:
    site = Site()
    site.ask(select(0), get(1))
    site.memory.answered(ANN, b"\x10\x2a\x9e\x9a\1x", OK)
    assert site.memory.state == site.memory.level == 0
    site.memory.answered(ANN, b"\x00\x2a\x9e\x9a\1x\0", b"signature" + OK)
    assert site.memory.state
    assert not any(b"signature" in each.answer for each in site.memory.recollections())


def test_applets_of_one_name_are_several() -> None:
    site = Site()
    first, second = (b"\0\xa4\4\0\7\xa0\0\0\0\x79\1" + number for number in (b"\0", b"\1"))
    read = bytes.fromhex("00520000020102")
    for select_it, buffer in ((first, b"one"), (second, b"two")):
        site.memory.answered(ANN, select_it, OK)
        site.memory.answered(ANN, read, buffer + OK)
    assert site.knows(first, read, second, read) == [OK, b"one" + OK, OK, b"two" + OK]
    site.memory.answered(ANN, bytes.fromhex("0042000008") + bytes(8), b"signature" + OK)
    assert site.knows(second, read) == [None, None], "not before it was seen to be the same"
    site.memory.answered(ANN, second, OK)
    site.memory.answered(ANN, read, b"two" + OK)
    assert site.knows(second, read) == [OK, b"two" + OK]


def test_an_environment_is_set_once_and_repeated() -> None:
    site = Site()
    setting = b"\0\x22\x41\xb6\3\x84\1\1"
    site.ask(select(0))
    site.memory.answered(ANN, setting, OK)
    assert site.knows(setting) == [None]
    site.memory.answered(ANN, setting, OK)
    assert site.knows(setting) == [OK]
    site.ask(select(0))
    assert site.knows(setting) == [None], "a new selection has none"


def test_the_oldest_go_first() -> None:
    site = Site(most=4 * (OVERHEAD + 20))
    site.ask(select(0), get(1), get(2), get(3))
    assert None not in site.knows(select(0), get(1), get(2), get(3))
    site.ask(select(1), get(1), get(2))
    assert site.knows(get(1), get(2)) == [b"\1\1\0" + OK, b"\1\2\0" + OK]
    assert site.knows(select(0)) == [None]
    assert site.memory.size <= site.most
    assert site.copies[ANN].size == site.memory.size


def test_a_host_confirms_what_was_believed_and_no_more() -> None:
    memory = GuestMemory()
    memory.believed = 3
    counters = type("Counted", (), {"confirmed": 0, "refuted": 0})()
    memory.done(Confirmed(2, 1), counters)
    assert (counters.confirmed, counters.refuted, memory.confirmed) == (1, 1, 2)
    for wrong in (Confirmed(4, 1), Confirmed(1, 1)):
        with pytest.raises(WireError):
            memory.done(wrong, counters)
