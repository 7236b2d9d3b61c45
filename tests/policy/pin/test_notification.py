"""The person is asked by a notification with buttons: a desktop of ours on a D-Bus of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dbus_fast import BusType, Message, MessageType, NameFlag
from dbus_fast.aio import MessageBus

from cardferry.policy.pin.notification import Notification
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said

NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
_BUS = """<busconfig><type>session</type><listen>unix:path={path}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
MAY_IT = Question("ssh:build1 <b>wants</b> it", lasting=True)
pytestmark = pytest.mark.real


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A D-Bus for this test."""
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


class Desktop:
    """Shows notifications to a person who presses what a test says."""

    def __init__(self, bus: MessageBus, presses: str, capabilities: list[str]) -> None:
        self.bus = bus
        self.presses = presses
        self.capabilities = capabilities
        self.shown: list[list[object]] = []
        self.showing = asyncio.Event()
        self.asked_by: str | None = None
        self.closed: list[int] = []

    def received(self, message: Message) -> Message | None:
        if message.path != PATH or message.message_type is not MessageType.METHOD_CALL:
            return None
        match message.member:
            case "GetCapabilities":
                return Message.new_method_return(message, "as", [self.capabilities])
            case "Notify":
                self.shown.append(message.body)
                self.asked_by = message.sender
                self.showing.set()
                asyncio.get_running_loop().call_soon(self._press, 7)
                return Message.new_method_return(message, "u", [7])
            case "CloseNotification":
                self.closed.append(message.body[0])
                return Message.new_method_return(message)
        return None

    def _press(self, number: int) -> None:
        signal, _, key = self.presses.partition(" ")
        if signal == "ActionInvoked":
            self.bus.send(Message.new_signal(PATH, NAME, signal, "us", [number, key]))
        elif signal == "NotificationClosed":
            self.bus.send(Message.new_signal(PATH, NAME, signal, "uu", [number, 2]))


@asynccontextmanager
async def desktop(
    address: str, presses: str = "", capabilities: tuple[str, ...] = ("actions", "body-markup")
) -> AsyncIterator[Desktop]:
    bus = await MessageBus(address, BusType.SESSION).connect()
    shown = Desktop(bus, presses, list(capabilities))
    bus.add_message_handler(shown.received)
    await bus.request_name(NAME, NameFlag.DO_NOT_QUEUE)
    try:
        yield shown
    finally:
        bus.disconnect()


async def ask(address: str, question: Question = MAY_IT) -> Said | None:
    notification = Notification({"DBUS_SESSION_BUS_ADDRESS": address})
    assert notification.fits(question)
    return await notification.ask(question)


@pytest.mark.parametrize(
    ("presses", "said"),
    [
        ("ActionInvoked allow", Said(yes=True)),
        ("ActionInvoked ten-minutes", Said(yes=True, lasting=True)),
        ("ActionInvoked deny", CANCELLED),
        ("ActionInvoked default", CANCELLED),
        ("NotificationClosed", CANCELLED),
    ],
)
async def test_what_the_person_presses(address: str, presses: str, said: Said) -> None:
    async with desktop(address, presses) as shown:
        assert await ask(address) == said
        ((_, _, _, title, text, actions, _, milliseconds),) = shown.shown
        assert (title, text) == ("May the card be used?", "ssh:build1 &lt;b&gt;wants&lt;/b&gt; it")
        assert actions == ["allow", "Allow", "ten-minutes", "Allow for 10 minutes", "deny", "Deny"]
        assert milliseconds == 30_000
        assert shown.closed == [7]


async def test_ten_minutes_are_no_answer_where_they_are_not_offered(address: str) -> None:
    async with desktop(address, "ActionInvoked ten-minutes") as shown:
        assert await ask(address, Question("May it?")) == CANCELLED
        assert shown.shown[0][5] == ["allow", "Allow", "deny", "Deny"]


async def test_who_does_not_answer_has_said_no_and_the_question_goes(address: str) -> None:
    async with desktop(address) as shown:
        assert await ask(address, Question("May it?", patience=0.1)) == NO_ANSWER
        assert shown.closed == [7]


async def test_another_program_answers_for_nobody(address: str) -> None:
    async with desktop(address) as shown:
        other = await MessageBus(address, BusType.SESSION).connect()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(address, Question("May it?", patience=0.5)))
            await shown.showing.wait()
            forged = Message.new_signal(PATH, NAME, "ActionInvoked", "us", [7, "allow"])
            forged.destination = shown.asked_by  # what is for everybody, the bus keeps from whom it does not concern
            await other.send(forged)
        assert asking.result() == NO_ANSWER
        other.disconnect()


async def test_a_desktop_without_buttons_or_none_at_all_leaves_it_to_another_way(address: str, tmp_path: Path) -> None:
    async with desktop(address, capabilities=("body",)) as shown:
        assert await ask(address) is None
        assert shown.shown == []
    assert await ask(address) is None
    assert await ask(f"unix:path={tmp_path}/nothing") is None


def test_pins_are_not_asked_for_in_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}
    assert not Notification(there).fits(Question("May it?", "PIN"))
    assert not Notification({}).fits(MAY_IT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not Notification(there).fits(MAY_IT)
