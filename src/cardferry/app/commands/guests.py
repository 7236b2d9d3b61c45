"""Guests that come in over TLS: invited and removed at a host, which they join from elsewhere."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

import msgspec

from cardferry.app.hosts import lend_messages as m
from cardferry.app.runtime.conversation import line_of
from cardferry.app.runtime.fleet import configured_fleet, configured_places
from cardferry.app.runtime.paths import SYSTEM_SERVICES, agent_path, runtime_folder
from cardferry.app.runtime.silent import check_not_stopped
from cardferry.app.runtime.status_socket import Running, running
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.nats.connection import check_extra
from cardferry.transports.tls import certificates, dialling
from cardferry.transports.tls.address import PORT, TlsAddress
from cardferry.transports.tls.errors import InvitationError
from cardferry.transports.tls.files import cannot_be_written, host_folder
from cardferry.transports.tls.guests import Guests
from cardferry.transports.tls.host import own_host
from cardferry.transports.tls.identity import Host, Line

#: s that the agent gets to cut somebody off.
_ANSWER_TIME = 5.0


def invite(name: str, seconds: float, life: float, address: str | None) -> tuple[str, list[str]]:
    """The line for a guest, and what else there is to say.

    Args:
        seconds: for which it is good.
        life: s for which the guest's certificates are valid.
        address: where it finds this computer, None for its own name.

    Raises:
        UserError: there can be no such line.
    """
    host = own_host()
    doors = _doors(host)
    fleet = address if address is not None and address.startswith("fleet:") else ""
    if fleet or (doors.fleet and not doors.listens and address is None):
        return _line(host, name, seconds, life, _in_fleet(doors, fleet))
    listens = TlsAddress.parse_listening(doors.listens, doors.listens) if doors.listens else None
    port = PORT if listens is None else listens.port
    given = (address or "").removeprefix("tls://")
    named = given or (listens.host if listens is not None else "") or socket.gethostname()
    target = TlsAddress.parse(f"//{named}" if _has_port(named) else f"//{named}:{port}", f"tls://{named}")
    start = "cardferry host" if listens and doors.configured else f"cardferry host --listen tls::{port}"
    notes = [] if listens and doors.open else [_start(start)]
    if doors.fleet:
        elsewhere = shlex.join(["cardferry", "invite", name, "--address", doors.fleet])
        notes.append(f"for a guest that can only reach NATS: {elsewhere}")
    return _line(host, name, seconds, life, _Way(f"tls://{target.place_written}", target.host, notes))


class _Doors(NamedTuple):
    """Where guests come in.

    Attributes:
        listens: over TLS, ``HOST:PORT``; empty for nowhere.
        fleet: in a fleet, as a URL; empty for nowhere.
        open: whether a host runs that takes them there, now.
        configured: whether the configuration says so.
    """

    listens: str = ""
    fleet: str = ""
    open: bool = False
    configured: bool = False

    @classmethod
    def of(cls, places: Sequence[str], fleet: Callable[[str], str], **how: bool) -> Self:
        """What listens, as after ``--listen``, without what is for certificates of others: nobody joins there.

        Args:
            fleet: gives the URL for a place in a fleet.
        """
        own = [one for one in places if "ca=" not in one]
        tls = next((one.removeprefix("tls:") for one in own if one.startswith("tls:")), "")
        return cls(tls, next((fleet(one) for one in own if one.startswith("fleet:")), ""), **how)


def _doors(host: Host) -> _Doors:
    """Where a host that runs listens; else where the configuration has one listen; else where the last one has."""
    folders = {runtime_folder(), *([SYSTEM_SERVICES] if os.getuid() == 0 else [])}
    places = [place for folder in folders for one in running(folder) for place in one.listens]
    doors = _Doors.of(places, lambda _: host.guests.fleet, open=True)  # written when it began to listen
    if doors.listens or doors.fleet:
        return doors
    doors = _Doors.of(configured_places(), str, configured=True)
    return doors if doors.listens or doors.fleet else _Doors(host.guests.listens, host.guests.fleet)


def _start(command: str) -> str:
    return f"nobody can come in yet; start: {command}"


class _Way(NamedTuple):
    """Where a guest comes in: its address, what to call that, and what else there is to say."""

    address: str
    called: str
    notes: list[str]


def _in_fleet(doors: _Doors, address: str) -> _Way:
    known = doors.fleet
    target = FleetAddress.parse((address or known).removeprefix("fleet:"), address or known)
    if known and not target.servers:
        target = target.at(FleetAddress.parse(known.removeprefix("fleet:"), known).servers)
    start = "cardferry host" if known and doors.configured else f"cardferry host --fleet --fleet-name {target.name}"
    notes = [] if known and doors.open else [_start(start)]
    return _Way(str(target), f"{target.name} in the fleet", notes)


def _line(host: Host, name: str, seconds: float, life: float, way: _Way) -> tuple[str, list[str]]:
    again = name in host.guests.known
    try:
        print_ = certificates.fingerprint(host.authority().certificate)
        secret = host.guests.invite(name, seconds, life)
    except OSError as error:
        raise cannot_be_written(error) from None
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    notes = [
        f"good once, until {until}, where {way.called} leads to this computer; there: cardferry join LINE",
        *way.notes,
    ]
    if again:
        notes.append(f"{name} has joined before: another computer that joins with this line takes its place")
    return str(Line(way.address, name, print_, secret)), notes


def _has_port(text: str) -> bool:
    return text.rpartition(":")[2].isdecimal() and (text.count(":") == 1 or "]:" in text)


async def join(text: str) -> tuple[str, str]:
    """Join the host that a line is from; returns the own name there, and what to attach. Raises `UserError`."""
    line = Line.parse(text)
    scheme, _, rest = line.address.partition(":")
    try:
        if scheme == "fleet":
            return await _join_in_fleet(line, FleetAddress.parse(rest, line.address))
        address = TlsAddress.parse(rest, line.address)
    except AddressSyntaxError as error:
        raise InvitationError(error.message, "give all of the line of `cardferry invite`, without blanks") from None
    name = await dialling.join(line, address)
    return name, address.host if address.port == PORT else str(address)


async def _join_in_fleet(line: Line, address: FleetAddress) -> tuple[str, str]:
    check_extra()
    address = address.knowing(configured_fleet())
    name = await dialling.join(line, address)
    try:
        address.remember()
    except OSError as error:
        raise cannot_be_written(error) from None
    return name, f"fleet:{address.name}"


class Guest(msgspec.Struct, frozen=True):
    """A guest for people. Times in s since 1970.

    Attributes:
        name: as in ``tls:NAME``.
        here: whether it is linked now.
        joined: when.
        seen, address: when it was here last, and from where; 0 and empty for never.
        software: name and version of its program, as it says itself.
        invited_until: of an invitation that was not used yet; 0 for none.
    """

    name: str
    here: bool = False
    joined: float = 0.0
    seen: float = 0.0
    address: str = ""
    software: str = ""
    invited_until: float = 0.0


def listed(running: list[Running], guests: Guests | None = None) -> list[Guest]:
    """All guests and invitations.

    Args:
        running: what runs of ours.
        guests: for whoever asks often: it reads its file only when that has changed.
    """
    here = {link.guest.principal for one in running for link in one.links if link.guest and link.guest.connected}
    guests = guests or Guests(host_folder())
    found = {
        name: Guest(name, f"tls:{name}" in here, one.joined, one.seen, one.address, one.software)
        for name, one in guests.known.items()
    }
    for one in guests.invitations:
        before = found.get(one.name, Guest(one.name))
        found[one.name] = msgspec.structs.replace(before, invited_until=one.until)
    return [found[name] for name in sorted(found)]


def wrong_secrets(guests: Guests | None = None) -> str:
    """How many secrets were wrong, in words; empty for none. ``guests`` as in `listed`."""
    wrong = (guests or Guests(host_folder())).wrong
    if not wrong.count:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(wrong.last))
    return f"wrong secrets of invitations: {wrong.count}, the last one from {wrong.address} at {when}"


def remove(name: str) -> None:
    """Forget a guest, or its invitation, and cut it off. Raises `UserError` when there is none."""
    guests = Guests(host_folder())
    short = name.removeprefix("tls:")
    if not (short in guests.known or any(one.name == short for one in guests.invitations)):
        raise InvitationError(f"there is no guest {name}", "`cardferry guests` shows all")
    try:
        guests.remove(short)
    except OSError as error:
        raise cannot_be_written(error) from None
    with suppress(FileNotFoundError, ConnectionError, TimeoutError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_TIME)
        connection.connect(os.fspath(agent_path(runtime_folder())))
        check_not_stopped(connection)
        connection.sendall(line_of(m.Recheck()))
        connection.recv(1)  # it hangs up when that is done
