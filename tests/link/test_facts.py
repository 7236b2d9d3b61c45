"""What a reader always says, and what it does not."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from cardferry.link import LinkServer
from cardferry.link.facts import About, Known, ReaderFacts
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.reader_state import Snapshot

#: FEATURE_VERIFY_PIN_DIRECT, FEATURE_IFD_PIN_PROPERTIES and FEATURE_GET_TLV_PROPERTIES.
FEATURES = bytes.fromhex("0604 42330006 0a04 4233000a 1204 42330012")


@pytest.mark.parametrize("attribute", [Attribute.VENDOR_NAME, Attribute.CHANNEL_ID, Attribute.MAXINPUT])
@pytest.mark.parametrize("code", [ReturnCode.S_SUCCESS, ReturnCode.E_UNSUPPORTED_FEATURE])
def test_what_belongs_to_the_reader_is_a_fact(attribute: Attribute, code: ReturnCode) -> None:
    facts = ReaderFacts()
    assert facts.learn("A", About.ATTRIBUTE, attribute, Known(code, b"x"))
    assert facts.find("A", About.ATTRIBUTE, attribute) == (code, b"x")
    assert facts.find("B", About.ATTRIBUTE, attribute) is None
    assert facts.find("A", About.CONTROL, attribute) is None
    assert not facts.learn("A", About.ATTRIBUTE, attribute, Known(code, b"y"))
    assert list(facts) == [("A", About.ATTRIBUTE, attribute, (code, b"x"))]
    facts.forget()
    assert facts.find("A", About.ATTRIBUTE, attribute) is None


@pytest.mark.parametrize(
    "attribute", [Attribute.ATR_STRING, Attribute.ICC_PRESENCE, Attribute.ICC_INTERFACE_STATUS, 0x12345]
)
def test_what_belongs_to_the_card_is_none(attribute: int) -> None:
    assert not ReaderFacts().learn("A", About.ATTRIBUTE, attribute, Known(0, b"x"))


@pytest.mark.parametrize("code", [ReturnCode.E_NOT_TRANSACTED, ReturnCode.W_RESET_CARD, ReturnCode.E_SHARING_VIOLATION])
def test_an_error_that_passes_is_none(code: ReturnCode) -> None:
    assert not ReaderFacts().learn("A", About.ATTRIBUTE, Attribute.VENDOR_NAME, Known(code, b""))
    assert not ReaderFacts().learn("A", About.CONTROL, GET_FEATURE_REQUEST, Known(code, b""))


def test_features_are_facts_and_so_are_the_properties_among_them() -> None:
    facts = ReaderFacts()
    assert not facts.learn("A", About.CONTROL, 0x4233000A, Known(0, b"early"))
    assert facts.learn("A", About.CONTROL, GET_FEATURE_REQUEST, Known(0, FEATURES))
    assert facts.learn("A", About.CONTROL, 0x4233000A, Known(0, b"pin"))
    assert facts.learn("A", About.CONTROL, 0x42330012, Known(0, b"tlv"))
    assert not facts.learn("A", About.CONTROL, 0x42330006, Known(0, b"the PIN was right"))
    assert not facts.learn("B", About.CONTROL, 0x42330012, Known(0, b"tlv"))


@pytest.mark.parametrize("features", [b"", b"\x12", FEATURES[:-1], b"\x12\x05" + bytes(10)])
def test_features_that_are_cut_or_odd(features: bytes) -> None:
    facts = ReaderFacts()
    facts.learn("A", About.CONTROL, GET_FEATURE_REQUEST, Known(0, features))
    assert not facts.learn("A", About.CONTROL, 0x42330012, Known(0, b"tlv"))


async def test_what_a_reader_says_to_one_principal_is_not_told_to_another() -> None:
    """Rules may give one of them a pinpad, and not the other."""
    manager = Mock(snapshot=Snapshot())
    host = LinkServer(manager)
    one, two = (Principal(PrincipalKind.SSH, name) for name in ("one", "two"))
    host.learn(one, "A", About.CONTROL, GET_FEATURE_REQUEST, Known(0, FEATURES))
    assert host.knows(one, "A")
    assert not host.knows(two, "A")
    assert list(host.facts(two)) == []
    manager.snapshot = Snapshot(reader_events=2)
    host.check_facts()
    assert not host.knows(one, "A")
