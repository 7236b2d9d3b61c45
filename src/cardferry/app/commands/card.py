"""A software card that dials in to a virtual reader: vsmartcard's vpcd, or cardferry's own ``vpicc:``.

The bytes go socket -> `CardSide` -> `VirtualCard` and back. One thing at a time, so this is plain blocking code.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from cardferry.pcsc.errors import UserError
from cardferry.pcsc.virtual_card import VirtualCard
from cardferry.system.limits import keep_memory_private
from cardferry.wiping import wipe_freed
from cardferry.wire.errors import WireError
from cardferry.wire.vpcd import CardSide, Control

_CHUNK = 65536
#: s until a reader must have taken the connection.
_PATIENCE = 10


class DialError(UserError):
    """The virtual reader cannot be reached, or does not speak vpcd's protocol."""

    exit_code = 51


#: Where a virtual reader listens: a TCP port, 35963 for vpcd's first, of a computer; or a Unix socket on this one. vpcd
#: has no encryption, so the computer is this one, or one behind a tunnel.
Address = tuple[str, int] | Path


def dial(card: VirtualCard, address: Address, ready: Callable[[], None]) -> None:
    """Be the card in the reader at ``address`` until the reader hangs up.

    Args:
        card: what answers.
        address: where the reader is.
        ready: called when the reader has asked for the ATR, that is, when it has noticed the card.

    Raises:
        DialError: nobody listens there, or what listens is no virtual reader.
    """
    keep_memory_private()
    name = str(address) if isinstance(address, Path) else f"{address[0]}:{address[1]}"
    try:
        connection = _connect(address)
    except OSError as error:
        raise DialError(
            f"no virtual reader answers at {name}: {error.strerror or error}",
            "start pcscd with vsmartcard-vpcd, or cardferry attach vpicc:PORT, and name its port",
        ) from error
    with connection:
        connection.settimeout(None)
        try:
            _serve(card, connection, ready)
        except WireError as error:
            raise DialError(
                f"what answers at {name} is not a virtual reader: {error}", "name the port of a vpcd"
            ) from error


def _connect(address: Address) -> socket.socket:
    if not isinstance(address, Path):
        connection = socket.create_connection(address, timeout=_PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(os.fspath(address))
    except BaseException:
        connection.close()
        raise
    return connection


def _serve(card: VirtualCard, connection: socket.socket, ready: Callable[[], None]) -> None:
    side = CardSide()
    noticed = False
    buffer = memoryview(bytearray(_CHUNK))
    while True:
        if connection.family != socket.AF_UNIX:
            # vpcd writes a message in two pieces with Nagle's algorithm on: acknowledge at once, or wait 40 ms
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            size = connection.recv_into(buffer)
        except ConnectionResetError:
            return
        if not size:
            return
        asked = _answer_all(card, side, buffer[:size], connection)
        buffer[:size] = bytes(size)
        wipe_freed()
        if asked and not noticed:
            noticed = True
            ready()


def _answer_all(card: VirtualCard, side: CardSide, data: memoryview, connection: socket.socket) -> bool:
    """Answer what is whole; return whether the ATR was asked for. Nothing of a command outlives the call."""
    asked = False
    for message in side.receive(data):
        answer = _answer(card, message)
        if answer is not None:
            connection.sendall(side.answer(answer))
        asked |= message is Control.GET_ATR
    return asked


def _answer(card: VirtualCard, message: Control | bytes) -> bytes | None:
    match message:
        case Control.POWER_OFF:
            card.power_off()
        case Control.POWER_ON:
            card.power_on()
        case Control.RESET:
            card.reset()
        case Control.GET_ATR:
            return card.atr
        case bytes():
            return card.process(message)
    return None
