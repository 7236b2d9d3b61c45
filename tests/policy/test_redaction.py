"""Secrets stay out of what is noted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardferry.policy.redaction import describe_command, describe_response


def test_a_selected_application_is_named() -> None:
    assert describe_command(bytes.fromhex("00a404000ba00000030800001000010000")) == "SELECT PIV"
    assert describe_command(bytes.fromhex("00a4040006d2760001240100")) == "SELECT OpenPGP"
    assert describe_command(bytes.fromhex("00a4040003010203")) == "SELECT application 010203"


def test_a_pin_is_never_shown() -> None:
    words = describe_command(bytes.fromhex("0020008008") + b"123456\xff\xff")
    assert words == "VERIFY 00 80, 8 bytes"


def test_a_chain_is_said_to_go_on() -> None:
    assert describe_command(bytes.fromhex("10870011020000")) == "GENERAL AUTHENTICATE 00 11, 2 bytes, to be continued"


def test_a_response_shows_its_length_and_status() -> None:
    assert describe_response(bytes(256) + b"\x61\x10").startswith("256 bytes, 61 10")
    assert describe_response(b"\x90\x00") == "90 00"
    assert describe_response(b"\x63\xc2").startswith("63 C2 (")


@given(st.binary(min_size=8, max_size=64), st.sampled_from([0x20, 0x24, 0x2C, 0x87, 0xDB, 0x2A, 0xD6]))
def test_no_byte_of_the_body_gets_out(body: bytes, instruction: int) -> None:
    header = bytes([0x00, instruction, 0x00, 0x80, len(body)])
    words = describe_command(header + body)
    assert words == describe_command(header + bytes(len(body)))


@given(st.binary(max_size=300))
def test_any_bytes_are_described(data: bytes) -> None:
    assert describe_command(data)
    assert describe_response(data)
