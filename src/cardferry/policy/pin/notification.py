"""Asks for yes or no with a notification on the desktop that has buttons (Desktop Notifications Specification 1.2).

It goes to whoever is ``org.freedesktop.Notifications`` on the session's D-Bus. PINs are not asked for in this way.
Needs the library dbus-fast, which comes with ``cardferry[desktop]``.
"""

from __future__ import annotations

import asyncio
import html
import importlib.util
import logging
import os
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from cardferry.pcsc.reply import within
from cardferry.pcsc.text import shown
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

T = TypeVar("T")

_NAME: Final = "org.freedesktop.Notifications"
_PATH: Final = "/org/freedesktop/Notifications"
_TITLE: Final = "May the card be used?"
_ALLOW, _TEN_MINUTES, _DENY = "allow", "ten-minutes", "deny"
#: s for the desktop to answer us; a person has longer.
_ANSWER_TIME: Final = 3.0
_CRITICAL: Final = 2


class Notification:
    """A way to ask for consent; see `cardferry.policy.pin.person.Way`.

    Args:
        environ: says where the session's D-Bus is.
    """

    name = "a notification on the desktop"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def fits(self, question: Question) -> bool:
        """Whether it is no PIN that is wanted, and there is a D-Bus of a session."""
        if question.prompt or importlib.util.find_spec("dbus_fast") is None:
            return False
        runtime = self._environ.get("XDG_RUNTIME_DIR", "")
        return bool(self._environ.get("DBUS_SESSION_BUS_ADDRESS")) or (Path(runtime) / "bus").is_socket()

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when the desktop shows no buttons, or does not answer."""
        from dbus_fast import BusType, DBusError  # noqa: PLC0415 - an extra
        from dbus_fast.aio import MessageBus  # noqa: PLC0415
        from dbus_fast.errors import AuthError, InvalidAddressError  # noqa: PLC0415

        bus: MessageBus | None = None
        try:
            bus = MessageBus(self._environ.get("DBUS_SESSION_BUS_ADDRESS"), BusType.SESSION)
            await _soon(bus.connect())
            return await self._ask(bus, question)
        except (OSError, EOFError, DBusError, AuthError, InvalidAddressError) as error:
            log.warning("nobody could be asked by a notification: %s", str(error) or "the desktop does not answer")
            return None
        finally:
            if bus is not None:
                bus.disconnect()

    async def _ask(self, bus: MessageBus, question: Question) -> Said | None:
        from dbus_fast import Variant  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        (capabilities,) = (await _call(bus, _DESKTOP, "GetCapabilities")).body
        if "actions" not in capabilities:
            log.warning("nobody could be asked by a notification: the desktop shows no buttons")
            return None
        await _match(bus)
        text = shown(question.text, 600)
        actions = [_ALLOW, "Allow", *([_TEN_MINUTES, "Allow for 10 minutes"] if question.lasting else []),
                   _DENY, "Deny"]  # fmt: skip
        answers = _Answers()
        bus.add_message_handler(answers.received)
        body = html.escape(text) if "body-markup" in capabilities else text
        hints = {"urgency": Variant("y", _CRITICAL)}
        reply = await _call(
            bus, _DESKTOP, "Notify", "susssasa{sv}i",
            "cardferry", 0, "", _TITLE, body, actions, hints, int(question.patience * 1000),
        )  # fmt: skip
        (number,) = reply.body
        try:
            said = await within(answers.to(number, reply.sender), loop.time() + question.patience)
        except TimeoutError:
            return NO_ANSWER
        finally:
            with suppress(TimeoutError, OSError):
                await _call(bus, _DESKTOP, "CloseNotification", "u", number)
        if said == _TEN_MINUTES and question.lasting:
            return Said(yes=True, lasting=True)
        return Said(yes=True) if said == _ALLOW else CANCELLED


class _Answers:
    """What the desktop says about its notifications; it may do so before we know the number of ours."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str | None, int, str]] = asyncio.Queue()

    def received(self, message: Message) -> None:
        """A message has come."""
        if message.interface != _NAME or not message.body or not isinstance(message.body[0], int):
            return
        if message.member == "ActionInvoked" and message.signature == "us":
            self._queue.put_nowait((message.sender, *message.body))
        elif message.member == "NotificationClosed":
            self._queue.put_nowait((message.sender, message.body[0], _DENY))

    async def to(self, number: int, desktop: str | None) -> str:
        """The answer to a notification, which its desktop alone may give."""
        while True:
            sender, which, said = await self._queue.get()
            if (sender, which) == (desktop, number):
                return said


async def _match(bus: MessageBus) -> None:
    rule = f"type='signal',sender='{_NAME}',path='{_PATH}',interface='{_NAME}'"
    await _call(bus, _BUS, "AddMatch", "s", rule)


_Peer = tuple[str, str]
_DESKTOP: Final[_Peer] = (_NAME, _PATH)
_BUS: Final[_Peer] = ("org.freedesktop.DBus", "/org/freedesktop/DBus")


async def _call(bus: MessageBus, peer: _Peer, member: str, signature: str = "", *body: Any) -> Message:
    from dbus_fast import DBusError, Message, MessageType  # noqa: PLC0415

    message = Message(
        destination=peer[0], path=peer[1], interface=peer[0], member=member, signature=signature, body=list(body)
    )  # fmt: skip
    reply = await _soon(bus.call(message))
    if reply is None or reply.message_type is MessageType.ERROR:
        raise DBusError(*(("", "no answer") if reply is None else (reply.error_name or "", str(reply.body))))
    return reply


async def _soon(work: Awaitable[T]) -> T:
    """What somebody on the bus does, in time; raises `TimeoutError`, and what it raises."""
    failed: list[Exception] = []

    async def caught() -> T | None:
        try:
            return await work
        except Exception as error:  # noqa: BLE001 - it goes on below; a reply would take it for a bug of ours
            failed.append(error)
            return None

    done = await within(caught(), asyncio.get_running_loop().time() + _ANSWER_TIME)
    if failed:
        raise failed[0]
    return cast("T", done)
