"""Any command as a way to a host: how it is written, what it says, how it ends; `test_contract` holds its pipes."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.exec import ExecAddress, ExecError, ExecNotStartedError
from cardferry.transports.program import Program
from tests.transports.test_contract import User


def shell(script: str) -> ExecAddress:
    return ExecAddress(("sh", "-c", script))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def lost(address: ExecAddress) -> Exception | None:
    """Why a pipe of the command is lost, which ends by itself."""
    user = User()
    async with asyncio.timeout(10):
        (await address.dial()).start(user)
        await user.until(lambda: bool(user.losses))
    return user.losses[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("docker exec -i box cardferry host --stdio", ("docker", "exec", "-i", "box", "cardferry", "host", "--stdio")),
        ("sh -c 'a | b'", ("sh", "-c", "a | b")),
        ("  'with blanks/x'  ", ("with blanks/x",)),
    ],
)
def test_address(text: str, words: tuple[str, ...]) -> None:
    address = ExecAddress.parse(text, f"exec:{text}")
    assert address.words == words
    assert ExecAddress.parse(str(address).removeprefix("exec:"), str(address)) == address


@pytest.mark.parametrize("text", ["", "  ", "''", "it's", "a\0b"])
def test_no_address(text: str) -> None:
    with pytest.raises(AddressSyntaxError) as refused:
        ExecAddress.parse(text, f"exec:{text}")
    assert repr(f"exec:{text}") in refused.value.message
    assert "'exec:docker exec -i box" in refused.value.hint


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ExecNotStartedError, match="no program 'no-such-thing' here") as raised:
        await ExecAddress(("no-such-thing", "x")).dial()
    assert (raised.value.heals, raised.value.exit_code) == (False, 36)


async def test_what_cardferry_says_over_there_is_why_and_marked_as_its_words() -> None:
    error = await lost(shell("echo 'error: no pcscd here' >&2; echo 'hint: install it' >&2; exit 30"))
    assert isinstance(error, ExecError)
    assert (error.message, error.hint) == ("sh says: no pcscd here", "sh says: install it")
    assert error.heals


async def test_a_command_that_fails_is_told_by_its_last_words_and_can_be_tried() -> None:
    error = await lost(shell("echo No such container: box >&2; exit 1"))
    assert isinstance(error, ExecError)
    assert error.message.endswith("` has ended with exit status 1: No such container: box")
    assert error.hint.startswith("try it by itself: sh -c 'echo No such container: box >&2; exit 1'; ")


async def test_a_command_that_a_signal_ended() -> None:
    assert "was ended by signal 9" in str(await lost(shell("kill -9 $$")))


async def test_a_command_that_ends_well_has_no_error() -> None:
    assert await lost(shell("exit 0")) is None


async def test_what_it_complains_of_is_shown_once_though_it_is_started_anew(caplog: pytest.LogCaptureFixture) -> None:
    address = shell("echo the moon is full >&2; exit 1")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await lost(address)
    assert [record.getMessage() for record in caplog.records] == ["sh: the moon is full"]


async def test_a_command_that_goes_on_is_asked_to_end_and_then_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("exec", "program"):
        monkeypatch.setattr(f"cardferry.transports.{module}.LAST_WORDS_TIME", 0.1)
    polite = shell(f"trap 'echo bye > {tmp_path}/said; exit' TERM; exec <&- >&-; while :; do sleep 0.01; done")
    assert await lost(polite) is None, "that it was ended says nothing about the other side"
    assert (tmp_path / "said").read_text() == "bye\n"
    assert await lost(shell("trap '' TERM; exec <&- >&- 2>&-; while :; do sleep 0.01; done")) is None


async def test_a_ctrl_c_at_the_terminal_is_ours_to_act_on() -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGINT); exit('still here')"
    assert str(await lost(ExecAddress((sys.executable, "-c", script)))).endswith(": still here")


async def test_dialling_leaves_no_descriptors_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    await lost(shell("exit 0"))  # what the loop needs for its first child stays
    before = descriptors()
    await lost(shell("exit 0"))
    monkeypatch.setattr(Program, "start", none)
    with pytest.raises(OSError, match="temporarily"):
        await shell("exit 0").dial()
    assert descriptors() == before
