"""The host gives the PIN: programs see a reader with a pinpad."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.app.commands.audit import entries
from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.pcsc.errors import PcscError
from cardferry.policy.audit import AuditLog
from cardferry.policy.pin.entry import MODIFY_CODE, PROPERTIES, PROPERTIES_CODE, VERIFY_CODE
from cardferry.policy.pin.person import Said
from tests.policy.guard.guarded_host import DENIED, OK, SELECT, SIGN, SIGN_9C, GuardedHost, User, verify
from tests.policy.guard.scripted_person import NO, TERMINAL, ScriptedPerson, pin
from tests.policy.pin.test_entry import asked, to_change

TEMPLATE = asked(0x82, 0x08, 0x00, "0020008008" + "FF" * 8)


def rules(folder: Path, more: str, may: str = '["read", "sign:9C"]') -> str:
    secret = folder / "pin"
    secret.write_text("123456\n")
    secret.chmod(0o600)
    return (
        f'[[allow]]\nwho = "ssh:build1"\nmay = {may}\n{more.format(secret=secret)}\n'
        '[[allow]]\nwho = "ssh:other"\nmay = ["read", "verify", "sign"]\n'
    )


HOST = 'pin = "host"\npin-from = "file:{secret}"'
PINPAD = 'pin = "pinpad"'


def codes(features: bytes) -> dict[int, int]:
    return {features[at]: int.from_bytes(features[at + 2 : at + 6], "big") for at in range(0, len(features), 6)}


async def enter(user: User, template: bytes = TEMPLATE) -> bytes:
    return await user.card.control(VERIFY_CODE, template, 2)


async def test_the_reader_has_a_pinpad_for_whom_the_host_gives_the_pin(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        features = codes(await build.card.control(GET_FEATURE_REQUEST, b"", 264))
        assert features == {0x06: VERIFY_CODE, 0x12: PROPERTIES_CODE}
        assert await build.card.control(PROPERTIES_CODE, b"", 264) == PROPERTIES
        assert codes(await other.card.control(GET_FEATURE_REQUEST, b"", 264)) == {}


async def test_the_pin_of_the_host_opens_the_key_that_the_rule_allows_and_for_nobody_else(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        await build.send(SELECT)
        assert await enter(build) == OK
        assert (await build.send(SIGN_9C))[-2:] == OK
        assert await enter(build) == OK
        assert await build.send(SIGN) == DENIED  # 9A: no rule
        assert await other.send(SIGN_9C) == DENIED  # no PIN


async def test_a_program_that_gives_a_pin_itself_is_refused(tmp_path: Path) -> None:
    may = '["read", "verify", "sign:9C"]'
    async with GuardedHost(rules(tmp_path, HOST, may), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await build.send(verify()) == DENIED
        assert verify() not in host.card.seen


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (asked(0x82, 0, 0, "0087119A00"), DENIED),
        (asked(0x82, 0, 0, "0024008000"), DENIED),
        (asked(0x82, 0x08, 0x00, "0020008008" + "FF" * 8, least=7), b"\x64\x03"),
        (b"nonsense", b"\x6b\x80"),
    ],
    ids=["signs", "changes", "another size", "none"],
)
async def test_the_pin_goes_into_no_other_command(tmp_path: Path, template: bytes, answer: bytes) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build, template) == answer
        assert not any(b"123456" in apdu for apdu in host.card.seen)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ([pin("123456")], OK),
        ([pin("999999")], b"\x63\xc2"),
        ([pin("12345678901")], b"\x64\x03"),
        ([NO], b"\x64\x01"),
        ([], b"\x64\x00"),
    ],
    ids=["right", "wrong", "too long", "cancelled", "no answer"],
)
async def test_the_person_at_the_host_types_it(tmp_path: Path, said: list[Said], answer: bytes) -> None:
    person = ScriptedPerson(*said)
    async with GuardedHost(TERMINAL + rules(tmp_path, PINPAD), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await enter(build) == answer
    (question,) = person.questions
    assert question.text == (
        "ssh:build1 (a test (process 1)) wants the PIN of the card in Virtual 00 00, for: sign:9C."
    )
    assert (question.prompt, question.patience) == ("PIN", 30)


@pytest.mark.parametrize("typed", ["123456", "999999", "12345678901"], ids=["right", "wrong", "too long"])
async def test_what_was_typed_is_overwritten(tmp_path: Path, typed: str) -> None:
    said = pin(typed)
    async with GuardedHost(TERMINAL + rules(tmp_path, PINPAD), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(ScriptedPerson(said)):
            await enter(build)
    assert said.pin == bytearray(len(typed))


async def test_without_anybody_to_ask_it_is_as_if_nobody_had_answered(tmp_path: Path) -> None:
    async with GuardedHost(TERMINAL + rules(tmp_path, PINPAD), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build) == b"\x64\x00"


CHANGE = to_change(3, 0, 8, "0024008010" + "FF" * 16, block=8)
MAY_CHANGE = '["read", "sign:9C", "manage-pin:80"]'


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ((pin("123456"), pin("876543"), pin("876543")), OK),
        ((pin("999999"), pin("876543"), pin("876543")), b"\x63\xc2"),
        ((pin("123456"), pin("876543"), pin("876544")), b"\x64\x02"),
        ((pin("123456"), pin("8"), pin("8")), b"\x64\x03"),
        ((pin("123456"), NO), b"\x64\x01"),
        ((pin("123456"), pin("876543")), b"\x64\x00"),
    ],
    ids=["right", "wrong", "not the same", "too short", "cancelled", "no answer"],
)
async def test_a_pin_is_changed_by_the_person_at_the_host(
    tmp_path: Path, typed: tuple[Said, ...], answer: bytes
) -> None:
    person = ScriptedPerson(*typed)
    async with GuardedHost(TERMINAL + rules(tmp_path, PINPAD, MAY_CHANGE), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        features = codes(await build.card.control(GET_FEATURE_REQUEST, b"", 264))
        assert features[0x07] == MODIFY_CODE
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await build.card.control(MODIFY_CODE, CHANGE, 2) == answer
        assert (await other.send(verify("876543" if answer == OK else "123456"))) == OK
    prompts = ["PIN", "New PIN", "New PIN again"]
    assert [question.prompt for question in person.questions] == prompts[: len(person.questions)]


async def test_a_pin_is_not_changed_by_whom_no_rule_allows_it(tmp_path: Path) -> None:
    person = ScriptedPerson()
    async with GuardedHost(TERMINAL + rules(tmp_path, PINPAD), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await build.card.control(MODIFY_CODE, CHANGE, 2) == DENIED
    assert person.questions == []


async def test_a_pin_that_the_host_keeps_is_changed_by_no_program(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST, MAY_CHANGE), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with pytest.raises(PcscError, match="UNSUPPORTED_FEATURE"):
            await build.card.control(MODIFY_CODE, CHANGE, 2)
        assert await build.send(bytes.fromhex("0024008010") + b"123456\xff\xff876543\xff\xff") == DENIED
        assert not any(b"123456" in apdu for apdu in host.card.seen)


async def test_locking_is_the_programs_to_do(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build) == OK
        assert await build.send(bytes.fromhex("0020FF80")) == OK
        assert await build.send(SIGN_9C) == DENIED


async def test_wrong_pins_of_a_secret_are_counted_so_that_it_does_not_block_the_card(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        (tmp_path / "pin").write_text("999999")
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert [await enter(build) for _ in range(3)] == [b"\x63\xc2", b"\x63\xc1", b"\x69\x83"]


async def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        (tmp_path / "pin").chmod(0o644)
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build) == b"\x64\x01"


async def test_the_hosts_pin_is_written_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    path = tmp_path / "audit"
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        await enter(build)
        (tmp_path / "pin").write_text("473829")
        await enter(build)
    assert [each["outcome"][:5] for each in entries(path) if each.get("operation") == "verify:80"] == ["90 00", "63 C2"]
    for secret in ("123456", "473829"):
        assert secret not in path.read_text() + caplog.text
