"""A card in a file."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from cardferry.cards.piv import PivCard
from cardferry.cards.piv.storage import MAX_FILE_SIZE, CardFileError, decode, encode
from tests.cards.client import PIN, Client
from tests.cards.conftest import SERIAL

WRONG = b"000000\xff\xff"


@pytest.fixture
def stored(rsa_card: PivCard) -> dict[str, Any]:
    """A card's file, as JSON."""
    value: dict[str, Any] = json.loads(encode(rsa_card.contents))
    return value


def test_a_card_survives_a_restart(rsa_card: PivCard, tmp_path: Path) -> None:
    before = Client(rsa_card)
    assert before.verify(WRONG) == 0x63C2
    assert before.administrator() == 0x9000
    assert before.put("5FC106", bytes(3000)) == 0x9000
    assert before.status(0xFF, 0xFF, 0xFF, b"\x08\x9b\x10" + bytes(16)) == 0x9000
    path = tmp_path / "card"
    rsa_card.save(path)
    after = Client(PivCard.load(path))
    assert after.tries() == 0x63C2
    assert after.card.contents.serial == SERIAL
    for tag in ("5FC102", "5FC105", "5FC106", "5FC10A"):
        assert after.get(tag) == before.get(tag)
    assert after.administrator(bytes(16), 0x08) == 0x9000
    assert after.verify() == 0x9000
    assert encode(after.card.contents) == encode(rsa_card.contents).replace(b'"left":2', b'"left":3')
    for slot, key in rsa_card.contents.keys.items():
        loaded = after.card.contents.keys[slot]
        assert loaded.private.public_key() == key.private.public_key()
        assert (loaded.pin_policy, loaded.origin) == (key.pin_policy, key.origin)


def test_only_the_owner_can_read_it(card: PivCard, tmp_path: Path) -> None:
    path = tmp_path / "card"
    path.touch(0o666)
    card.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_card(card: PivCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card"
    card.save(path)
    before = path.read_bytes()
    Client(card).verify(WRONG)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        card.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_over_is_no_obstacle(card: PivCard, tmp_path: Path) -> None:
    path = tmp_path / "card"
    left_over = tmp_path / f".card.{os.getpid()}.new"
    left_over.write_text("half a card")
    card.save(path)
    assert PivCard.load(path).contents.serial == SERIAL
    assert list(tmp_path.iterdir()) == [path]


def test_revision_tells_when_to_save(client: Client) -> None:
    revision = client.card.revision
    client.get("5FC102")
    assert client.card.revision == revision
    client.verify(PIN)
    assert client.card.revision > revision


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PivCard.load(tmp_path / "card")


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff\xfe", b"x" * (MAX_FILE_SIZE + 1)])
def test_what_is_no_card(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card"
    path.write_bytes(content)
    with pytest.raises(CardFileError) as raised:
        PivCard.load(path)
    assert str(path) in raised.value.message
    assert raised.value.hint


def pkcs8(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return base64.b64encode(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption)).decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "cardferry PIV card 2"),
        ("serial", -1),
        ("serial", 2**32),
        ("serial", "1"),
        ("guid", "x"),
        ("pin", {"value": "MTIz", "tries": 3, "left": 3}),  # three bytes
        ("pin", {"value": "MTIzNDU2//8=", "tries": 3, "left": 4}),
        ("pin", {"value": "MTIzNDU2//8=", "tries": 0, "left": 0}),
        ("management_key", "AAAA"),
        ("management_algorithm", 17),
        ("management_algorithm", 99),
        ("keys", [{"slot": 1, "pkcs8": "", "pin_policy": 1, "origin": 1}]),
        ("keys", [{"slot": 154, "pkcs8": "", "pin_policy": 1, "origin": 1}]),
        ("keys", [{"slot": 154, "pkcs8": "!", "pin_policy": 1, "origin": 1}]),
        ("keys", [{"slot": 154, "pkcs8": "AAAA", "pin_policy": 9, "origin": 1}]),
        ("objects", [{"tag": 1, "content": "AAAA"}]),
        ("objects", [{"tag": 0x5FC102, "content": "A" * 40000}]),
        ("surprise", 1),
    ],
)
def test_what_is_no_card_any_more(stored: dict[str, Any], name: str, value: object) -> None:
    decode(json.dumps(stored).encode())
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(stored | {name: value}).encode())


def test_keys_that_no_piv_card_has(stored: dict[str, Any]) -> None:
    keys = {
        "another curve": pkcs8(ec.generate_private_key(ec.SECP521R1())),
        "another kind": pkcs8(ed25519.Ed25519PrivateKey.generate()),
        "a password": pkcs8(ec.generate_private_key(ec.SECP256R1()), b"secret"),
    }
    for name, key in keys.items():
        bad = stored | {"keys": [{"slot": 154, "pkcs8": key, "pin_policy": 1, "origin": 1}]}
        with pytest.raises(ValueError, match="not a kind of key"):
            decode(json.dumps(bad).encode())
        assert name


@given(st.binary(max_size=200))
def test_any_bytes_are_a_card_or_the_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)
