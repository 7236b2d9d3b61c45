"""Who may come in: invitations are good once and for a while, a guest is its name and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.transports.tls import guests as module
from cardferry.transports.tls.errors import InvitationError
from cardferry.transports.tls.guests import Guests


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guests(tmp_path: Path, clock: Clock) -> Guests:
    return Guests(tmp_path, clock)


def test_an_invitation_is_good_once(guests: Guests) -> None:
    secret = guests.invite("build1", 900, 3600)
    assert [one.name for one in guests.invitations] == ["build1"]
    joined = guests.join(secret, "key", "10.0.0.2", "cardferry 1")
    assert joined is not None
    assert (joined.name, joined.life) == ("build1", 3600)
    assert guests.invitations == []
    assert guests.join(secret, "another key", "10.0.0.3", "") is None
    assert (guests.wrong.count, guests.wrong.address) == (1, "10.0.0.3")
    assert guests.find("build1", "key") is not None
    assert guests.find("build1", "another key") is None


def test_an_invitation_expires(guests: Guests, clock: Clock) -> None:
    secret = guests.invite("build1", 900, 3600)
    clock.now += 900
    assert guests.invitations == []
    assert guests.join(secret, "key", "10.0.0.2", "") is None
    assert guests.wrong.count == 1


def test_a_newer_invitation_makes_the_older_one_void(guests: Guests) -> None:
    first, second = (guests.invite("build1", 900, 3600) for _ in range(2))
    assert guests.join(first, "key", "10.0.0.2", "") is None
    assert guests.join(second, "key", "10.0.0.2", "") is not None


def test_who_joins_again_takes_the_place_of_the_one_before(guests: Guests) -> None:
    for key in ("old", "new"):
        assert guests.join(guests.invite("build1", 900, 3600), key, "10.0.0.2", "") is not None
    assert guests.find("build1", "old") is None
    assert guests.find("build1", "new") is not None


def test_a_guest_that_is_removed_is_none_and_neither_is_its_invitation(guests: Guests, tmp_path: Path) -> None:
    other = Guests(tmp_path)  # as another process sees it
    secret = guests.invite("build1", 900, 3600)
    guests.join(secret, "key", "10.0.0.2", "")
    again = guests.invite("build1", 900, 3600)
    assert other.find("build1", "key") is not None
    assert guests.remove("build1")
    assert other.find("build1", "key") is None
    assert guests.join(again, "key", "10.0.0.2", "") is None
    assert not guests.remove("build1")


def test_a_guest_is_seen(guests: Guests, clock: Clock) -> None:
    guests.join(guests.invite("build1", 900, 3600), "key", "10.0.0.2", "cardferry 1")
    clock.now += 60
    guests.seen("build1", "key", "10.0.0.9", "cardferry 2" + "x" * 1000)
    known = guests.known["build1"]
    assert (known.seen, known.address, known.software[:11], len(known.software)) == (
        clock.now,
        "10.0.0.9",
        "cardferry 2",
        64,
    )
    guests.seen("build1", "another key", "10.0.0.66")
    guests.seen("nobody", "key", "10.0.0.66")
    assert guests.known == {"build1": known}


def test_no_secret_is_in_the_file_and_nobody_else_can_read_it(guests: Guests, tmp_path: Path) -> None:
    secret = guests.invite("build1", 900, 3600)
    assert len(secret) >= 22, "128 bits"
    (path,) = tmp_path.glob("*.json")
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "tls:a", "*", "ä", "a/b", "a" * 64, "a\n"])
def test_what_is_no_name(guests: Guests, name: str) -> None:
    with pytest.raises(InvitationError, match="not a name"):
        guests.invite(name, 900, 3600)


def test_there_are_not_too_many(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    guests.join(guests.invite("one", 900, 3600), "key", "10.0.0.2", "")
    guests.invite("two", 900, 3600)
    with pytest.raises(InvitationError, match="2 guests"):
        guests.invite("three", 900, 3600)


def test_a_file_that_is_damaged_lets_nobody_in(
    guests: Guests, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guests.join(guests.invite("one", 900, 3600), "key", "10.0.0.2", "")
    (tmp_path / "guests.json").write_text('{"guests": 7}')
    assert guests.find("one", "key") is None
    assert "no guest is known" in caplog.text
