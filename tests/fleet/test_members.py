"""What hosts write of themselves, as others read it."""

from __future__ import annotations

import pytest

from cardferry.fleet.members import FleetHost, FleetReader, decode, encode
from cardferry.wire.errors import WireError


@pytest.mark.parametrize("name", ["Yubico 00 00", "Leser \u00fc", "cut \udcc3", "\ue0ff", "Karte \U0001f4b3"])
def test_a_reader_of_any_name_is_written_and_found_again(name: str) -> None:
    host = FleetHost("LAB-7", readers=(FleetReader(name, serials=("1",), subjects={"9A": "CN=\udcff"}),))
    (reader,) = decode(encode(host), "LAB-7").readers
    assert reader.name == name
    assert reader.subjects == {"9A": "CN=?"}


@pytest.mark.parametrize("name", ["_x", "X?servers=nats://evil%2Eexample:4222", "a.b", "", "*", "x" * 64])
def test_what_cannot_be_a_part_of_an_address_is_no_host(name: str) -> None:
    with pytest.raises(WireError):
        decode(encode(FleetHost(name)), name)


@pytest.mark.parametrize("document", [b"", b"{", b'{"name": "LAB-8"}', b"[" * 2000, b'{"name": "\xff"}'])
def test_what_is_no_document(document: bytes) -> None:
    with pytest.raises(WireError):
        decode(document, "LAB-7")
