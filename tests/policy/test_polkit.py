"""polkit is asked as pcscd asks it: here one of ours, in tests/real/test_for_every_program.py the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.policy.authorized import Authorized
from cardferry.policy.polkit import ACCESS_CARD, ACCESS_PCSC, Polkit, Subject
from cardferry.system.peers import start_time
from tests.callers import somebody
from tests.policy.test_offered import Readers

_BUS = """<busconfig><type>session</type><listen>unix:path={path}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
ME = Subject(os.getpid(), start_time(os.getpid()), os.getuid())


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    assert shutil.which("dbus-daemon"), "install dbus-daemon"
    config = tmp_path / "bus.conf"
    config.write_text(_BUS.format(path=tmp_path / "bus"))
    words = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().strip()
        finally:
            daemon.terminate()


class Authority:
    """A polkit that says what the test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.allows: bool | None = True
        self.asked: list[list[Any]] = []

    def handle(self, message: Message) -> Message | None:
        if message.member != "CheckAuthorization" or message.message_type is not MessageType.METHOD_CALL:
            return None
        self.asked.append(message.body)
        if self.allows is None:
            return Message.new_error(message, "org.freedesktop.PolicyKit1.Error.Failed", "a broken rule")
        return Message.new_method_return(message, "(bba{ss})", [[self.allows, False, {}]])


@pytest.fixture
async def authority(address: str) -> AsyncIterator[Authority]:
    bus = await MessageBus(address, BusType.SYSTEM).connect()
    there = Authority()
    bus.add_message_handler(there.handle)
    await bus.request_name("org.freedesktop.PolicyKit1")
    yield there
    bus.disconnect()


@pytest.fixture
def polkit(tmp_path: Path, address: str) -> Iterator[Polkit]:
    actions = tmp_path / "policy"
    actions.touch()
    asking = Polkit(actions, address)
    yield asking
    asking.close()


async def test_where_pcscd_asks_nobody_we_do_not_either(tmp_path: Path) -> None:
    assert await Polkit(tmp_path / "policy", "unix:path=/nowhere").may(ME, ACCESS_PCSC)


async def test_it_is_asked_with_pcscds_words(authority: Authority, polkit: Polkit) -> None:
    assert await polkit.may(ME, ACCESS_CARD, "Reader 00 00")
    ((kind, who), action, details, flags, _) = authority.asked[0]
    assert (kind, action, details) == ("unix-process", "org.debian.pcsc-lite.access_card", {"reader": "Reader 00 00"})
    assert {name: value.value for name, value in who.items()} == {
        "pid": ME.pid,
        "start-time": ME.started,
        "uid": ME.uid,
    }
    assert flags == 0, "nobody is asked for a password"
    authority.allows = False
    assert not await polkit.may(ME, ACCESS_PCSC)


async def test_what_cannot_be_asked_says_no_and_is_asked_again(
    authority: Authority, polkit: Polkit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority.allows = None
    assert not await polkit.may(ME, ACCESS_PCSC)
    assert "a broken rule" in caplog.text
    authority.allows = True
    assert await polkit.may(ME, ACCESS_PCSC)
    assert not await Polkit(tmp_path / "policy", "unix:path=/nowhere").may(ME, ACCESS_PCSC)


async def test_a_reader_that_polkit_denies_is_not_connected_to(authority: Authority, polkit: Polkit) -> None:
    behind = Readers("Reader 00 00")
    manager = Authorized(behind, polkit).seen_by(Principal(PrincipalKind.LOCAL_USER, "ada"))
    assert manager.snapshot is behind.snapshot
    context = await manager.open(somebody(pid=os.getpid(), uid=os.getuid()))
    await context.connect("Reader 00 00", ShareMode.SHARED, Protocol.ANY)
    authority.allows = False
    with pytest.raises(PcscError) as denied:
        await context.connect("Reader 00 00", ShareMode.SHARED, Protocol.ANY)
    assert denied.value.code == ReturnCode.W_SECURITY_VIOLATION
    assert behind.context.connect.await_count == 1


async def test_who_comes_over_a_link_is_no_process_here() -> None:
    assert Subject.of(Caller(Principal(PrincipalKind.SSH, "build1"))) is None


def test_the_start_of_a_process_is_what_the_kernel_says() -> None:
    boot = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < start_time(os.getpid()) <= boot * os.sysconf("SC_CLK_TCK")
    assert start_time(1 << 30) == 0
