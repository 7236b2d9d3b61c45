"""VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER (SP 800-73-5 part 2, 3.2.1 to 3.2.3)."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cardferry.cards.piv import PivCard
from cardferry.cards.piv.reference_data import is_pin, pad
from tests.cards.client import PIN, PUK, Client
from tests.cards.conftest import GUID, SERIAL

WRONG = b"000000\xff\xff"


def test_the_bytes_of_verify(client: Client) -> None:
    assert client.hex("00 20 00 80") == "63C3"
    assert client.hex("00 20 00 80 00") == "63C3"
    assert client.hex("00 20 00 80 08 303030303030FFFF") == "63C2"
    assert client.hex("00 20 00 80 08 313233343536FFFF") == "9000"
    assert client.hex("00 20 00 80") == "9000"


def test_a_right_pin_renews_the_tries(client: Client) -> None:
    assert client.verify(WRONG) == 0x63C2
    assert client.verify(WRONG) == 0x63C1
    assert client.verify() == 0x9000
    client.card.reset()
    assert client.tries() == 0x63C3


def test_three_wrong_pins_block(client: Client) -> None:
    assert [client.verify(WRONG) for _ in range(4)] == [0x63C2, 0x63C1, 0x6983, 0x6983]
    assert client.verify() == 0x6983
    assert client.tries() == 0x6983
    client.card.reset()
    assert client.verify() == 0x6983


def test_a_wrong_pin_logs_out(client: Client) -> None:
    assert client.verify() == 0x9000
    assert client.verify(WRONG) == 0x63C2
    assert client.tries() == 0x63C2


@pytest.mark.parametrize(
    "pin",
    [
        b"12345\xff\xff\xff",  # too short
        b"abcdef\xff\xff",  # no digits
        b"12\xff456\xff\xff",  # padded in the middle
        b"123456\x00\x00",  # padded otherwise
        b"\xff" * 8,  # what ykman blocks the PIN with
    ],
)
def test_eight_bytes_that_are_no_pin_are_a_wrong_one(client: Client, pin: bytes) -> None:
    assert client.verify(pin) == 0x63C2
    assert client.tries() == 0x63C2


@pytest.mark.parametrize("pin", [b"123456", b"12345678\xff"])
def test_other_lengths_cost_no_try(client: Client, pin: bytes) -> None:
    assert client.verify(pin) == 0x6A80
    assert client.tries() == 0x63C3


def test_a_wrong_format_keeps_the_log_in(client: Client) -> None:
    assert client.verify() == 0x9000
    assert client.verify(b"123456") == 0x6A80
    assert client.tries() == 0x9000


def test_log_out(client: Client) -> None:
    assert client.verify() == 0x9000
    assert client.hex("00 20 FF 80") == "9000"
    assert client.tries() == 0x63C3
    assert client.hex("00 20 FF 80 08 313233343536FFFF") == "6A80"


@pytest.mark.parametrize("apdu", ["00 20 01 80", "00 20 FE 80"])
def test_verify_with_a_wrong_p1(client: Client, apdu: str) -> None:
    assert client.hex(apdu) == "6A86"


@pytest.mark.parametrize("reference", ["00", "81", "96", "98"])
def test_other_references_are_not_there(client: Client, reference: str) -> None:
    # the global PIN, the PUK (which is never verified), fingerprints and pairing code
    assert client.hex(f"00 20 00 {reference}") == "6A88"
    if reference != "81":
        assert client.hex(f"00 24 00 {reference} 10 {PIN.hex()} {PIN.hex()}") == "6A88"
    assert client.hex(f"00 2C 00 {reference} 10 {PUK.hex()} {PIN.hex()}") == "6A88"


@pytest.mark.parametrize("event", ["reset", "power_on", "power_off"])
def test_reset_and_power_off_forget_the_log_in(client: Client, event: str) -> None:
    assert client.verify() == 0x9000
    getattr(client.card, event)()
    if event == "power_off":
        client.card.power_on()
    assert client.tries() == 0x63C3


def test_change_pin(client: Client) -> None:
    new = pad("87654321")
    assert client.status(0x24, 0, 0x80, PIN + new) == 0x9000
    client.card.reset()
    assert client.verify() == 0x63C2
    assert client.verify(new) == 0x9000


def test_changing_the_pin_proves_it(client: Client) -> None:
    assert client.status(0x24, 0, 0x80, PIN + pad("654321")) == 0x9000
    assert client.tries() == 0x9000


def test_change_pin_with_a_wrong_one(client: Client) -> None:
    assert client.status(0x24, 0, 0x80, WRONG + pad("654321")) == 0x63C2
    assert client.verify() == 0x9000


@pytest.mark.parametrize(
    "data",
    [
        PIN,
        PIN + b"12345\xff\xff\xff",
        PIN + b"abcdefgh",
        PIN + PIN + b"\xff",
        b"",
    ],
)
def test_change_pin_with_a_wrong_format(client: Client, data: bytes) -> None:
    assert client.status(0x24, 0, 0x80, data) == 0x6A80
    client.card.reset()
    assert client.tries() == 0x63C3
    assert client.verify() == 0x9000


def test_the_old_value_is_compared_before_the_new_ones_format_is_looked_at(client: Client) -> None:
    assert client.status(0x24, 0, 0x80, b"abcdefgh" + b"abcdefgh") == 0x63C2
    assert client.status(0x2C, 0, 0x80, WRONG + b"abcdefgh") == 0x63C2


def test_change_puk(client: Client) -> None:
    new = b"new puk!"
    assert client.status(0x24, 0, 0x81, WRONG + new) == 0x63C2
    assert client.status(0x24, 0, 0x81, PUK + new) == 0x9000
    assert client.status(0x24, 0, 0x81, PUK + new) == 0x63C2
    assert client.status(0x24, 0, 0x81, new + PUK) == 0x9000
    assert client.tries() == 0x63C3


def test_the_puk_unblocks(client: Client) -> None:
    new = pad("7777777")
    while client.verify(WRONG) != 0x6983:
        pass
    assert client.status(0x2C, 0, 0x80, b"00000000" + new) == 0x63C2
    assert client.tries() == 0x6983
    assert client.status(0x2C, 0, 0x80, PUK + new) == 0x9000
    assert client.tries() == 0x63C3
    assert client.verify(new) == 0x9000


def test_the_puk_blocks(client: Client) -> None:
    statuses = [client.status(0x2C, 0, 0x80, b"00000000" + PIN) for _ in range(4)]
    assert statuses == [0x63C2, 0x63C1, 0x6983, 0x6983]
    assert client.status(0x2C, 0, 0x80, PUK + PIN) == 0x6983
    assert client.status(0x24, 0, 0x81, PUK + PUK) == 0x6983


@pytest.mark.parametrize("data", [PUK, PUK + b"12345\xff\xff\xff", PUK + PIN + b"x", b""])
def test_unblock_with_a_wrong_format(client: Client, data: bytes) -> None:
    assert client.status(0x2C, 0, 0x80, data) == 0x6A80
    assert client.status(0x2C, 0, 0x80, PUK + PIN) == 0x9000


@pytest.mark.parametrize("ins", ["24", "2C"])
def test_change_and_unblock_with_a_wrong_p1(client: Client, ins: str) -> None:
    assert client.hex(f"00 {ins} 01 80 10 {PUK.hex()} {PIN.hex()}") == "6A86"


def test_every_try_counts_as_a_change(client: Client) -> None:
    for pin in (WRONG, PIN):
        before = client.card.revision
        client.verify(pin)
        assert client.card.revision > before


def test_secrets_are_compared_in_constant_time_after_the_try_is_taken(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes, int]] = []
    pin = client.card.contents.pin

    def recording(value: bytes, candidate: bytes) -> bool:
        compared.append((value, candidate, pin.left))
        return False

    monkeypatch.setattr("hmac.compare_digest", recording)
    assert client.verify() == 0x63C2
    assert compared == [(PIN, PIN, 2)]


def test_pad() -> None:
    assert pad("123456") == PIN
    for bad in ("123456789", "1234567ü"):
        with pytest.raises(ValueError, match=r"."):
            pad(bad)
    assert is_pin(PIN)


class PinHistory(RuleBasedStateMachine):
    """Any history of PIN commands beside a model of what SP 800-73-5 says about them."""

    SECRETS = ("111111", "222222", "3333333", "44444444")

    @initialize()
    def new_card(self) -> None:
        self.client = Client(PivCard.personalised(serial=SERIAL, guid=GUID))
        self.pin, self.pin_left = "123456", 3
        self.puk, self.puk_left = "12345678", 3
        self.verified = False

    def expect(self, right: bool, left: int) -> tuple[int, int]:
        """The status word, and the tries left, of a comparison."""
        if left == 0:
            return 0x6983, 0
        if right:
            return 0x9000, 3
        return (0x63C0 | left - 1 if left > 1 else 0x6983), left - 1

    @rule(candidate=st.sampled_from(("123456", *SECRETS)))
    def verify(self, candidate: str) -> None:
        status, self.pin_left = self.expect(candidate == self.pin, self.pin_left)
        self.verified = status == 0x9000
        assert self.client.verify(pad(candidate)) == status

    @rule(right=st.booleans(), new=st.sampled_from(SECRETS))
    def change_pin(self, right: bool, new: str) -> None:
        status, self.pin_left = self.expect(right, self.pin_left)
        old = self.pin if right else "000000"
        self.verified = status == 0x9000
        self.pin = new if status == 0x9000 else self.pin
        assert self.client.status(0x24, 0, 0x80, pad(old) + pad(new)) == status

    @rule(right=st.booleans(), new=st.sampled_from(SECRETS))
    def change_puk(self, right: bool, new: str) -> None:
        status, self.puk_left = self.expect(right, self.puk_left)
        old = self.puk if right else "000000"
        self.puk = new if status == 0x9000 else self.puk
        assert self.client.status(0x24, 0, 0x81, pad(old) + pad(new)) == status

    @rule(right=st.booleans(), new=st.sampled_from(SECRETS))
    def unblock(self, right: bool, new: str) -> None:
        status, self.puk_left = self.expect(right, self.puk_left)
        puk = self.puk if right else "000000"
        if status == 0x9000:
            self.pin, self.pin_left = new, 3
        assert self.client.status(0x2C, 0, 0x80, pad(puk) + pad(new)) == status

    @rule()
    def log_out(self) -> None:
        self.verified = False
        assert self.client.status(0x20, 0xFF, 0x80) == 0x9000

    @rule()
    def reset(self) -> None:
        self.verified = False
        self.client.card.reset()

    @rule()
    def select(self) -> None:
        assert self.client.hex("00A4040005A000000308").endswith("9000")
        assert self.client.hex("00A4040005A000000527") == "6A82"

    @invariant()
    def the_card_knows(self) -> None:
        if hasattr(self, "client"):
            left = 0x63C0 | self.pin_left if self.pin_left else 0x6983
            assert self.client.tries() == (0x9000 if self.verified else left)
            assert self.client.card.contents.puk.left == self.puk_left


TestPinHistory = PinHistory.TestCase
TestPinHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
