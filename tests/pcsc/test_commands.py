"""What instructions are called, and which commands only read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.applications import Application
from cardferry.pcsc.commands import instruction_name, reads

ANY, PIV, OPENPGP = Application.UNKNOWN, Application.PIV, Application.OPENPGP


def test_names() -> None:
    assert instruction_name(0xA4) == "SELECT"
    assert instruction_name(0xFB) == "instruction FB"
    assert instruction_name(0xFB, PIV) == "RESET"
    assert instruction_name(0xFB, OPENPGP) == "ATTEST"
    assert instruction_name(0x20, PIV) == "VERIFY"


@pytest.mark.parametrize(
    ("command", "application"),
    [
        # ISO 7816-4
        ("00A4040005A000000308", ANY),
        ("00A4040C00", ANY),
        ("00A40400", ANY),
        ("00A4080C043F005015", ANY),
        ("00B0000000", ANY),
        ("00B0810010", ANY),
        ("00B10000045402010000", ANY),
        ("00B2010400", ANY),
        ("00B2010500", ANY),
        ("00CA9F7F00", ANY),
        ("80CA9F7F00", ANY),
        ("00CB3FFF055C035FC10500", ANY),
        ("0020008000", ANY),
        ("00200081", ANY),
        # PIV, with Yubico's
        ("00F7009A00", PIV),
        ("00F8000000", PIV),
        ("00FD000000", PIV),
        # OpenPGP
        ("0047810002B60000", OPENPGP),
        ("00478100000002A400010F", OPENPGP),
        ("00A500040660045C027F21", OPENPGP),
        ("00F1000000", OPENPGP),
        # CAC, as OpenSC asks it
        ("00520000020102", Application.CAC),
        ("005200F202021A", Application.CAC),
        ("00560100FF", Application.CAC),
        ("004C100000", Application.CAC),
        # YubiKey
        ("0001100000", Application.YUBIKEY_OTP),
        ("001D000000", Application.YUBIKEY_MANAGEMENT),
        ("001D010000", Application.YUBIKEY_MANAGEMENT),
    ],
)
def test_commands_that_read(command: str, application: Application) -> None:
    assert reads(bytes.fromhex(command), application)


@pytest.mark.parametrize(
    ("command", "application"),
    [
        ("00A4040206D27600012401", ANY),  # next occurrence
        ("00B2000400", ANY),  # current record
        ("00B2010200", ANY),  # next record
        ("00B201040100", ANY),
        ("00B1000002500100", ANY),
        ("00CB3FFF055C035FC1", ANY),  # no command
        ("00CB3FFF034D017E00", ANY),
        ("00CC7F2100", ANY),  # next data
        ("0084000008", ANY),  # random
        ("00CA004F0141", ANY),
        ("00C0000000", ANY),  # what does it fetch?
        ("00A0000001FF", ANY),
        # acts
        ("0020008008313233343536FFFF", ANY),
        ("0020FF80", ANY),
        ("002241B603840101", ANY),
        ("002A9E9A0101", ANY),
        ("0087119A0101", PIV),
        ("00DB3FFF0101", PIV),
        ("00F99A0000", PIV),
        ("00F7019A00", PIV),
        ("00F800000101", PIV),
        ("0047800002B60000", OPENPGP),
        ("0047810003B6018100", OPENPGP),
        ("0047810002B700", OPENPGP),
        ("0001130000", Application.YUBIKEY_OTP),
        ("00520000020102", ANY),
        ("00520000020302", Application.CAC),
        ("0042000010", Application.CAC),
        ("0058000002010200", Application.CAC),
        # not this application's, or not certain which it is
        ("00F7009A00", ANY),
        ("00F8000000", OPENPGP),
        ("0047810002B60000", PIV),
        # class
        ("10A4040005A000000308", ANY),
        ("01B0000000", ANY),
        ("0CCA006E00", ANY),
        ("80B0000000", ANY),
        ("84CA006E00", ANY),
        ("", ANY),
        ("00A4", ANY),
    ],
)
def test_everything_else_acts(command: str, application: Application) -> None:
    assert not reads(bytes.fromhex(command), application)


def test_get_response_reads_when_it_fetches_what_was_read() -> None:
    fetch = bytes.fromhex("00C0000010")
    assert reads(fetch, fetching=True)
    assert not reads(fetch, fetching=False)
    assert not reads(bytes.fromhex("01C0000010"), fetching=True)


def test_a_key_that_is_set_may_be_set_again() -> None:
    key = bytes.fromhex("002241B603840101")
    assert reads(key, environment={key})
    assert not reads(bytes.fromhex("002241B603840102"), environment={key})
    assert not reads(bytes.fromhex("102241B603840101"), environment={bytes.fromhex("102241B603840101")})


@given(st.binary(max_size=300), st.sampled_from(Application))
def test_any_bytes_have_an_answer(apdu: bytes, application: Application) -> None:
    assert reads(apdu, application) in (True, False)
