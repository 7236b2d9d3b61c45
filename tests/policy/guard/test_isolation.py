"""What one principal has unlocked is locked before another one's first command; within a principal nothing changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.cards.piv import PivCard
from cardferry.pcsc.constants import Disposition
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.policy.guard.guarded_host import (
    ASK,
    DENIED,
    OK,
    READ,
    SELECT,
    SIGN,
    GuardedHost,
    User,
    verify,
)

LOCK = bytes.fromhex("0020FF80")
GET_RESPONSE = bytes.fromhex("00C0000000")
AUTHENTICATE_9B = bytes.fromhex("0087039B047C02810000")


async def unlocked(host: GuardedHost, name: str = "ssh:alice") -> User:
    alice = await host.principal(name)
    await alice.send(SELECT)
    assert await alice.send(verify()) == OK
    return alice


async def test_a_pin_that_one_guest_has_verified_is_not_verified_for_the_next() -> None:
    async with GuardedHost() as host:
        await unlocked(host)
        bob = await host.principal("ssh:bob")
        assert await bob.send(SIGN) == DENIED
        assert (await bob.send(ASK))[:1] == b"\x63"
        assert host.card.resets == 0
        assert host.card.seen[3:5] == [LOCK, ASK]


async def test_without_isolation_it_is(tmp_path: Path) -> None:
    async with GuardedHost("isolation = false", folder=tmp_path) as host:
        await unlocked(host)
        bob = await host.principal("ssh:bob")
        assert (await bob.send(SIGN))[-2:] == OK


async def test_within_a_principal_programs_share_what_is_unlocked_as_at_pcscd() -> None:
    async with GuardedHost() as host:
        await unlocked(host)
        other = await host.principal("ssh:alice")
        assert (await other.send(SIGN))[-2:] == OK
        assert LOCK not in host.card.seen


async def test_nothing_is_sent_when_nobody_has_verified_anything() -> None:
    async with GuardedHost() as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        for user in (alice, bob, alice):
            await user.send(SELECT)
        assert host.card.seen == [SELECT] * 3
        assert host.card.resets == 0


async def test_a_transaction_is_not_interrupted() -> None:
    async with GuardedHost() as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        async with alice:
            await alice.send(SELECT)
            assert await alice.send(verify()) == OK
            waiting = bob.card.transmit(SIGN, 2)
            assert (await alice.send(SIGN))[-2:] == OK
        assert await waiting == DENIED


async def test_the_card_is_reset_where_only_that_is_sure_and_everybody_who_used_it_is_told() -> None:
    async with GuardedHost() as host:
        alice = await host.principal("ssh:alice")
        bob, carol = await host.principal("ssh:bob"), await host.principal("ssh:carol")
        await bob.send(SELECT)
        await alice.send(SELECT)
        assert (await alice.send(AUTHENTICATE_9B))[-2:] == OK  # of the management key: not a PIN
        assert host.card.resets == 0
        await carol.send(SELECT)  # who has not used the card has lost nothing
        assert host.card.resets == 1
        for told in (alice, bob):
            with pytest.raises(PcscError) as error:
                await told.send(READ)
            assert error.value.code is ReturnCode.W_RESET_CARD


async def test_a_card_that_does_not_lock_on_demand_is_reset() -> None:
    card = PivCard.personalised()
    process = card.process
    card.process = lambda apdu: OK if apdu == LOCK else process(apdu)  # type: ignore[method-assign]
    async with GuardedHost(card=card) as host:
        await unlocked(host)
        bob = await host.principal("ssh:bob")
        await bob.send(SELECT)
        assert host.card.resets == 1
        assert await bob.send(SIGN) == DENIED


async def test_a_chain_that_one_has_begun_does_not_become_anothers_command() -> None:
    async with GuardedHost() as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        await alice.send(SELECT)
        assert await alice.send(bytes.fromhex("10CB3FFF015C")) == OK
        await bob.send(SELECT)
        assert host.card.resets == 1


@pytest.mark.parametrize("logs_out", [False, True])
async def test_the_rest_of_an_answer_is_not_anothers(logs_out: bool) -> None:
    """Alice may have been told it because of her PIN, also when she has locked that herself."""
    async with GuardedHost() as host:
        alice, bob = await unlocked(host), await host.principal("ssh:bob")
        assert (await alice.send(READ[:-1] + b"\x00"))[-2:-1] == b"\x61"
        if logs_out:
            assert await alice.send(LOCK) == OK
        await alice.card.disconnect(Disposition.LEAVE)
        await bob.send(GET_RESPONSE)
        assert host.card.resets == 1


async def test_the_rest_of_what_was_read_without_a_pin_is_for_those_who_may_read_it(tmp_path: Path) -> None:
    rules = '[[allow]]\nwho = ["ssh:alice", "ssh:carol"]\nmay = "read"\n'
    rules += '[[allow]]\nwho = "ssh:bob"\nmay = "read:D27600012401"\n'
    async with GuardedHost(rules, folder=tmp_path) as host:
        users = {name: await host.principal(f"ssh:{name}") for name in ("alice", "bob", "carol")}
        await users["alice"].send(SELECT)
        assert (await users["alice"].send(READ[:-1] + b"\x00"))[-2:-1] == b"\x61"
        seen = len(host.card.seen)
        assert await users["bob"].send(GET_RESPONSE) == DENIED
        assert len(host.card.seen) == seen
        assert (await users["carol"].send(GET_RESPONSE))[-2:] == OK
        assert host.card.resets == 0


async def test_whoever_vanishes_leaves_nothing_behind() -> None:
    async with GuardedHost() as host:
        alice = await unlocked(host)
        await alice.card.disconnect(Disposition.LEAVE)
        bob = await host.principal("ssh:bob")
        await bob.send(SELECT)
        assert await bob.send(SIGN) == DENIED


async def test_after_a_reset_nothing_needs_to_be_locked() -> None:
    async with GuardedHost() as host:
        alice = await unlocked(host)
        await alice.card.disconnect(Disposition.RESET)
        seen = len(host.card.seen)
        bob = await host.principal("ssh:bob")
        await bob.send(SELECT)
        assert host.card.seen[seen:] == [SELECT]


async def test_who_has_verified_a_pin_goes_on_before_another_principal() -> None:
    """As PKCS#11 modules do: the PIN in one transaction, the signature in the next."""
    async with GuardedHost(stay=60) as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        async with alice:
            await alice.send(SELECT)
            assert await alice.send(verify()) == OK
            waiting = bob.card.begin()
        for _ in range(2):
            async with alice:
                assert not waiting.done()
                assert (await alice.send(SIGN))[-2:] == OK
        await alice.card.disconnect(Disposition.LEAVE)
        await waiting
        assert await bob.send(SIGN) == DENIED


async def test_its_other_programs_go_on_as_well_and_another_principal_when_the_last_one_has_gone() -> None:
    async with GuardedHost(stay=60) as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        other = await host.principal("ssh:alice")
        async with alice:
            await alice.send(SELECT)
            assert await alice.send(verify()) == OK
            first, second = bob.card.begin(), other.card.begin()
        await second
        await alice.card.disconnect(Disposition.LEAVE)
        await other.card.end(Disposition.LEAVE)
        assert not first.done()
        await other.card.disconnect(Disposition.LEAVE)
        await first


async def test_another_principal_waits_for_nothing_when_the_pin_is_locked_again() -> None:
    async with GuardedHost(stay=60) as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        async with alice:
            await alice.send(SELECT)
            assert await alice.send(verify()) == OK
            assert await alice.send(LOCK) == OK
        assert await bob.send(SIGN) == DENIED


async def test_nobody_waits_without_isolation(tmp_path: Path) -> None:
    async with GuardedHost("isolation = false", folder=tmp_path, stay=60) as host:
        await unlocked(host)
        bob = await host.principal("ssh:bob")
        assert (await bob.send(SIGN))[-2:] == OK


async def test_nobody_waits_for_who_has_given_no_pin() -> None:
    """Something may be unlocked, and is locked again; but no program would fail for want of a PIN that it has given."""
    async with GuardedHost(stay=60) as host:
        alice, bob = await host.principal("ssh:alice"), await host.principal("ssh:bob")
        await alice.send(SELECT)
        assert (await alice.send(AUTHENTICATE_9B))[-2:] == OK
        async with asyncio.timeout(5):
            await bob.send(SELECT)
        assert host.card.resets == 1
