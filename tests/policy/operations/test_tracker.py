"""What the tracker follows from command to command."""

from __future__ import annotations

import pytest

from cardferry.policy.operations import Operation, Tracker
from tests.policy.operations.test_tables import CHALLENGE, OPENPGP, PIV, PKCS15, authenticate, words

OK, NOT_FOUND = "9000", "6A82"
SIGN = authenticate("11", "9C", CHALLENGE)


class Conversation:
    """A conversation with a card."""

    def __init__(self) -> None:
        self.tracker = Tracker()

    def send(self, command: str, response: str = OK) -> str:
        """What the command does; it is sent, and answered."""
        action = self.tracker.judge(bytes.fromhex(command))
        self.tracker.answered(action, bytes.fromhex(response))
        return words(action)

    def in_chain(self) -> bool:
        """Whether the card may be waiting for more pieces."""
        return self.tracker.chain_open

    def ask(self, command: str) -> str:
        """What the command would do; it is not sent."""
        return words(self.tracker.judge(bytes.fromhex(command)))


@pytest.fixture
def card() -> Conversation:
    conversation = Conversation()
    conversation.send(PIV)
    return conversation


# what is selected


def test_a_command_that_is_not_sent_changes_nothing(card: Conversation) -> None:
    card.ask(OPENPGP)
    card.ask("10CB3FFF015C")
    card.ask("0CA4040000")
    assert card.ask(SIGN) == "sign:9C"
    assert not card.in_chain()


def test_a_reset_forgets_everything(card: Conversation) -> None:
    card.send("10CB3FFF015C")
    card.tracker.reset()
    assert not card.in_chain()
    assert card.ask(SIGN) == "other"


def test_after_somebody_else_had_the_card_it_is_not_certain_what_is_selected(card: Conversation) -> None:
    card.tracker.interrupted()
    assert card.ask(SIGN) == "other"
    assert card.ask("00CB3FFF055C035FC10500") == "read:5FC105"
    assert card.ask("0020008008313233343536FFFF") == "verify:80"
    # OpenSC asks whether PIV is still selected rather than selecting it, which would log it out
    card.send("00CB3FFF035C017E00", "7E124F0BA0000003080000100001005F2F024000" + OK)
    assert card.ask(SIGN) == "sign:9C"


def test_an_answer_that_was_lost_leaves_it_uncertain(card: Conversation) -> None:
    card.tracker.lost(card.tracker.judge(bytes.fromhex(OPENPGP)))
    assert card.ask(SIGN) == "other"
    card.send(PIV)
    card.send(OPENPGP, "90")
    assert card.ask(SIGN) == "other"


def test_a_select_that_finds_nothing_leaves_the_selection(card: Conversation) -> None:
    card.send("00A4040006A00000000101", NOT_FOUND)
    assert card.ask(SIGN) == "sign:9C"


def test_a_select_that_may_have_worked_makes_it_one_of_two(card: Conversation) -> None:
    card.send(OPENPGP, NOT_FOUND)
    assert card.ask(SIGN) == "other"
    assert card.ask("00CB3FFF055C035FC10500") == "read:5FC105"
    assert card.ask("0047810002B60000") == "generate:00"
    card.send(PIV)
    assert card.ask(SIGN) == "sign:9C"


@pytest.mark.parametrize(
    ("command", "response", "known"),
    [
        ("0CA4040006D27600012401", OK, False),
        ("0CA4040006D27600012401", "6985", False),
        ("0CA4040006D27600012401", "6882", True),
        ("80A4040006D27600012401", "6E00", True),
        ("00A4040006D27600012401FFFF", OK, False),
        ("00A4040006D27600012401FFFF", "6700", False),
        ("0070400000", OK, False),
        ("00EE0000", OK, False),
        ("00EE0000", "6D00", True),
        ("00C20000020000", OK, False),
        ("80CA9F7F00", OK, True),
    ],
)
def test_a_command_that_nobody_understands_may_have_selected(
    card: Conversation, command: str, response: str, known: bool
) -> None:
    card.send(command, response)
    assert card.ask(SIGN) == ("sign:9C" if known else "other")


# logical channels


def test_each_channel_has_its_own_selection(card: Conversation) -> None:
    assert card.send("0070000001", "01" + OK) == "read"
    assert card.ask("01" + SIGN[2:]) == "other"
    card.send("01" + OPENPGP[2:])
    assert card.ask("012A9E9A0401020304") == "sign:SIG"
    assert card.ask("002A9E9A0401020304") == "sign"
    assert card.ask(SIGN) == "sign:9C"
    card.send("0070000500")
    card.send("41" + PIV[2:])
    assert card.ask("41" + SIGN[2:]) == "sign:9C"
    assert card.ask("42" + SIGN[2:]) == "other"


@pytest.mark.parametrize(("close", "channel"), [("00708001", "01"), ("01708000", "01"), ("00708004", "40")])
def test_a_channel_that_was_closed_starts_anew(card: Conversation, close: str, channel: str) -> None:
    card.send("00700001")
    card.send("00700004")
    card.send(channel + PIV[2:])
    assert card.ask(channel + SIGN[2:]) == "sign:9C"
    card.send(close)
    assert card.ask(channel + SIGN[2:]) == "other"
    assert card.ask(SIGN) == "sign:9C"


def test_a_card_that_selects_on_a_channel_that_is_not_open_may_know_of_no_channels(card: Conversation) -> None:
    card.send("01" + OPENPGP[2:], "6881")
    assert card.ask(SIGN) == "sign:9C"
    card.send("01" + OPENPGP[2:])
    assert card.ask(SIGN) == "other"
    assert card.ask("012A9E9A0401020304") == "sign"


def test_keys_are_set_on_their_channel() -> None:
    card = Conversation()
    card.send(PKCS15)
    card.send("00700001")
    card.send("01" + PKCS15[2:])
    card.send("002241B603840101")
    assert card.ask("002A9E9A0401020304") == "sign:01"
    assert card.ask("012A9E9A0401020304") == "sign"


def test_a_key_that_the_card_refused_is_not_set() -> None:
    card = Conversation()
    card.send(PKCS15)
    card.send("002241B603840101")
    card.send("002241B603840102", "6A88")
    assert card.ask("002A9E9A0401020304") == "sign:01"


def test_after_somebody_else_had_the_card_any_key_may_be_set() -> None:
    card = Conversation()
    card.send(OPENPGP)
    card.tracker.interrupted()
    card.send(OPENPGP)
    assert card.ask("008800000401020304") == "authenticate"
    assert card.ask("002A9E9A0401020304") == "sign:SIG"


# chains

FIRST, SECOND, LAST = "1087119C047C068200", "1087119C0181", "0087119C0302AABB"
AGREE = "0087119C0385" + "02AABB"


def test_a_chain_is_what_its_pieces_are_together(card: Conversation) -> None:
    assert card.send(FIRST) == "sign:9C"
    assert card.in_chain()
    assert card.send(SECOND) == "sign:9C"
    action = card.tracker.judge(bytes.fromhex(LAST))
    assert words(action) == "sign:9C"
    assert action.complete
    assert action.command is not None
    assert action.command.data.hex().upper() == CHALLENGE
    card.tracker.answered(action, b"\x90\x00")
    assert not card.in_chain()


def test_a_piece_does_nothing_yet(card: Conversation) -> None:
    assert not card.tracker.judge(bytes.fromhex(FIRST)).complete


def test_the_last_piece_tells_when_the_first_did_not(card: Conversation) -> None:
    assert card.send("1087119C037C0682") == "sign:9C"
    assert card.send("0087119C050085 02AABB") == "decrypt:9C"


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("10200081", "verify:81"),  # a PIN may follow
        ("10200080023132", "verify:80"),
        ("1047810001B6", "generate:00"),
        ("10DB3FFF075C035FC1055382", "write:5FC105"),
        ("10DB3FFF035C035F", "write"),
        ("10CB3FFF015C", "read"),
        ("1087039B017C", "administer:9B"),
        ("1087119C04FF068200", "other"),
        ("1087119C057C0A80085A", "other"),
    ],
)
def test_a_first_piece_is_never_less_than_what_can_become_of_it(card: Conversation, first: str, expected: str) -> None:
    assert card.send(first) == expected


def test_an_openpgp_key_is_known_from_the_first_piece() -> None:
    card = Conversation()
    card.send(OPENPGP)
    assert card.send("10DB3FFF0A4D820116B6007F480391") == "generate:SIG"


def test_an_openpgp_key_is_known_when_its_template_is_whole() -> None:
    card = Conversation()
    card.send(OPENPGP)
    assert card.send("1047800001B6") == "generate"
    assert card.send("004780000100") == "generate:SIG"


def test_a_command_in_the_middle_of_a_chain_may_get_its_data(card: Conversation) -> None:
    card.send("1020008006313233343536")
    assert card.ask("00200081") == "verify"
    assert card.ask("00CB3FFF035C017E00") == "verify:80"
    assert card.send("00CA006E00", OK) == "verify:80"
    assert not card.in_chain()
    assert card.ask("00200081") == "read:81"


def test_what_was_selected_in_the_middle_of_a_chain_is_not_certain(card: Conversation) -> None:
    card.send("10CB3FFF015C")
    card.send(PIV)
    assert card.ask(SIGN) == "other"


@pytest.mark.parametrize(
    ("between", "response"),
    [
        ("00C0000000", "6985"),  # GET RESPONSE
        ("11" + SECOND[2:], "6881"),  # on another channel
        ("0100000000", "6881"),
        ("80CA9F7F00", "6E00"),  # classes that the card does not know
        ("0C20008000", "6882"),
        ("00", "6700"),
    ],
)
def test_a_chain_goes_on_or_not_after_what_a_card_does_not_look_at(
    card: Conversation, between: str, response: str
) -> None:
    card.send("1087119C067C0882008504", OK)
    card.send(between, response)
    assert card.in_chain()
    # alone this would be answering a challenge
    assert card.ask("0087119C087C0682008102AABB") == "other"
    assert card.send("00CB3FFF055C035FC10500", NOT_FOUND) == "other"
    assert not card.in_chain()
    assert card.ask(SIGN) == "sign:9C"


@pytest.mark.parametrize("piece", ["1087119A0181", "10CB3FFF015C", "9087119C0181", "1C87119C0181", "1087119C0181FFFF"])
def test_pieces_that_do_not_belong_together_are_uncertain(card: Conversation, piece: str) -> None:
    card.send(FIRST)
    assert card.send(piece) == "other"
    assert card.ask(LAST) == "other"
    assert card.send("00200080", "63C3") == "other"
    assert card.ask("00200080") == "read:80"


def test_a_chain_that_the_card_refuses_has_not_begun(card: Conversation) -> None:
    card.send(FIRST, "6884")
    assert not card.in_chain()
    assert card.ask(SIGN) == "sign:9C"


def test_a_chain_that_somebody_came_into_may_be_gone(card: Conversation) -> None:
    card.send(FIRST)
    card.tracker.interrupted()
    assert card.in_chain()
    assert card.ask(LAST) == "other"
    card.send("00200080", "63C3")
    assert not card.in_chain()


def test_a_piece_whose_answer_was_lost_may_be_in_the_card(card: Conversation) -> None:
    card.tracker.lost(card.tracker.judge(bytes.fromhex(FIRST)))
    assert card.in_chain()
    assert card.ask("00200080") == "other"


def test_a_chain_longer_than_any_command_is_uncertain(card: Conversation) -> None:
    piece = f"10DB3FFF00{32768:04X}" + "5C035FC10553827FFF" + "00" * 32759
    assert card.send(piece) == "write:5FC105"
    assert card.send(piece) == "other"
    assert card.ask(piece) == "other"


# answers in pieces


def test_the_rest_of_an_answer_is_worth_as_much_as_its_beginning(card: Conversation) -> None:
    card.send(authenticate("07", "9D", "7C820106" + "8200" + "81820100" + "11" * 256), "61FF")
    assert card.send("00C0000080", "617F") == "decrypt:9D"
    assert card.send("00CB3FFF055C035FC10500", OK) == "read:5FC105"
    assert card.send("00C0000000") == "decrypt:9D"
    assert card.ask("00C0000000") == "other"


def test_an_answer_that_waits_for_somebody_else_is_uncertain(card: Conversation) -> None:
    card.send("00CB3FFF055C035FC10500", "6110")
    assert card.ask("00C0000010") == "read:5FC105"
    card.tracker.interrupted()
    assert card.ask("00C0000010") == "other"


def test_there_is_always_an_operation() -> None:
    card = Conversation()
    for command in ("", "00", "FF" * 5, "00A4040000", "00" * 300):
        assert card.send(command).partition(":")[0] in set(Operation)
