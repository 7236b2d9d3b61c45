"""Cards to test with."""

from __future__ import annotations

from uuid import UUID

import pytest

from cardferry.cards.piv import Algorithm, PivCard, Slot
from cardferry.cards.piv.keys import PrivateKey, generate
from tests.cards.client import Client

GUID = UUID("00112233-4455-4677-8899-aabbccddeeff")
SERIAL = 12345678


@pytest.fixture(scope="session")
def rsa_key() -> PrivateKey:
    """An RSA-2048 key; making one takes long."""
    return generate(Algorithm.RSA2048)


@pytest.fixture
def card() -> PivCard:
    """A card with ECC P-256 keys in 9A, 9C, 9D, 9E."""
    return PivCard.personalised(serial=SERIAL, guid=GUID)


@pytest.fixture
def rsa_card(rsa_key: PrivateKey) -> PivCard:
    """The same with an RSA key in 9C and 9D, and P-384 in 82."""
    keys = {Slot.SIGNATURE: rsa_key, Slot.KEY_MANAGEMENT: rsa_key}
    algorithms = {Slot.RETIRED_1: Algorithm.P384}
    return PivCard.personalised(serial=SERIAL, guid=GUID, keys=keys, algorithms=algorithms)


@pytest.fixture
def client(card: PivCard) -> Client:
    """A client of `card`."""
    return Client(card)
