"""Asks polkit who may use smart cards here, with the words that pcscd has for it since pcsc-lite 1.8.11.

pcscd asks about the program at its socket; where cardferry is in front of pcscd, that is cardferry, and so it asks
instead. The actions are those of pcsc-lite's ``org.debian.pcsc-lite.policy``: a computer without that file has a pcscd
that asks nobody, and nobody is asked here either. Where it is there, and polkit does not answer, the answer is no.

Needs the library dbus-fast, which comes with ``cardferry[polkit]``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cardferry.backoff import Seldom
from cardferry.pcsc.caller import Caller
from cardferry.system.peers import start_time

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

#: What pcscd installs where it was built with polkit.
ACTIONS: Final = Path("/usr/share/polkit-1/actions/org.debian.pcsc-lite.policy")
_PREFIX: Final = "org.debian.pcsc-lite."
#: To use the service at all; to connect to a reader, whose name is the detail ``reader``.
ACCESS_PCSC, ACCESS_CARD = "access_pcsc", "access_card"
_NAME: Final = "org.freedesktop.PolicyKit1"
_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
#: s for an answer: a rule may run a program (polkit(8)).
_ANSWER_TIME: Final = 15.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A process that polkit is asked about.

    Attributes:
        pid, uid: process and user id, as the kernel has told them.
        started: see `start_time`.
    """

    pid: int
    started: int
    uid: int

    @classmethod
    def of(cls, caller: Caller) -> Subject | None:
        """The program on this computer that calls; None for who comes over a link."""
        program = caller.program
        if not program.proved or program.pid is None or program.uid is None:
            return None
        return cls(program.pid, start_time(program.pid), program.uid)


def installed() -> bool:
    """Whether polkit can be asked: the library is there."""
    return importlib.util.find_spec("dbus_fast") is not None


class Polkit:
    """Asks polkit.

    Args:
        actions: the file that says that there is something to ask.
        bus: the address of the system's D-Bus, None for the usual one.
    """

    def __init__(self, actions: Path = ACTIONS, bus: str | None = None) -> None:
        self._actions = actions
        self._address = bus
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._seldom = Seldom()

    @property
    def in_force(self) -> bool:
        """Whether pcscd would ask."""
        return self._actions.exists()

    async def may(self, subject: Subject, action: str, reader: str = "") -> bool:
        """Whether a process may do that; nobody is asked to authenticate, as pcscd does not.

        Args:
            action: `ACCESS_PCSC`, or `ACCESS_CARD` with the reader's name.
        """
        if not self.in_force:
            return True
        try:
            async with asyncio.timeout(_ANSWER_TIME):
                allowed = await self._ask(subject, action, {"reader": reader} if reader else {})
        except (OSError, EOFError, TimeoutError, ImportError, ValueError) as error:
            self.close()
            what = str(error) or "it does not answer"
            if self._seldom.due(what, time.monotonic()):
                log.error("polkit cannot be asked who may use cards, so nobody may: %s", what)
            return False
        self._seldom.reset()
        if not allowed:
            log.warning("polkit does not let process %d, user %d, %s", subject.pid, subject.uid,
                        f"use {reader}" if reader else "use cards")  # fmt: skip
        return allowed

    async def _ask(self, subject: Subject, action: str, details: dict[str, str]) -> bool:
        from dbus_fast import Message, MessageType, Variant  # noqa: PLC0415 - an extra

        bus = await self._connected()
        who = {
            "pid": Variant("u", subject.pid),
            "start-time": Variant("t", subject.started),
            "uid": Variant("i", subject.uid),
        }
        reply = await bus.call(
            Message(
                destination=_NAME,
                path=_PATH,
                interface=_INTERFACE,
                member="CheckAuthorization",
                signature="(sa{sv})sa{ss}us",
                body=[["unix-process", who], _PREFIX + action, details, 0, ""],
            )
        )
        if reply is None or reply.message_type is MessageType.ERROR:
            raise ValueError("no answer" if reply is None else f"{reply.error_name}: {_first(reply.body)}")
        result = reply.body[0]
        return bool(result[0])

    async def _connected(self) -> MessageBus:
        from dbus_fast import BusType  # noqa: PLC0415 - an extra
        from dbus_fast.aio import MessageBus  # noqa: PLC0415
        from dbus_fast.errors import AuthError, InvalidAddressError  # noqa: PLC0415

        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                try:
                    self._bus = await MessageBus(self._address, BusType.SYSTEM).connect()
                except (AuthError, InvalidAddressError) as error:
                    raise ValueError(str(error)) from error
            return self._bus

    def close(self) -> None:
        """Hang up."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.disconnect()


def _first(body: list[Any]) -> str:
    return str(body[0]) if body else ""
