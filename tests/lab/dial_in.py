"""How a card made of software gets into vpcd's reader: it dials in and answers.

vpcd's protocol: each message is a 2-byte big-endian length and that many bytes. From the reader, one byte is an
order (0 off, 1 on, 2 reset, 4 tell your ATR), anything longer a command APDU. The card sends ATRs and responses.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
import time
from typing import Protocol

OFF, ON, RESET, ATR = 0, 1, 2, 4


class Card(Protocol):
    """What the loop needs of a card."""

    def atr(self) -> bytes:
        """The answer to reset."""

    def power(self, order: int) -> None:
        """OFF, ON or RESET."""

    def process(self, apdu: bytes) -> bytes:
        """A response, status word included."""


def _connect(host: str, port: int, patience: float = 20.0) -> socket.socket:
    """Dial; vpcd may not listen yet, or may still be busy with the card before this one."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection = socket.create_connection((host, port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes; empty at the end of the connection."""
    data = b""
    while len(data) < size:
        # vpcd writes length and body apart, with Nagle's algorithm on: acknowledge at once, or wait 40 ms for the body
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            part = connection.recv(size - len(data))
        except ConnectionResetError:
            part = b""
        if not part:
            return b""
        data += part
    return data


def serve(card: Card, host: str, port: int, stay: bool = False) -> None:
    """Be ``card`` in the reader at ``host``:``port`` until the reader hangs up; says "inserted" once it was noticed.

    With ``stay`` it sits in a reader that leaves and returns: it dials again.
    """
    _serve_once(card, host, port)
    while stay:
        _serve_once(card, host, port)


def _serve_once(card: Card, host: str, port: int) -> None:
    inserted = False
    with contextlib.closing(_connect(host, port)) as connection:
        while header := _receive(connection, 2):
            message = _receive(connection, int.from_bytes(header, "big"))
            if len(message) > 1:
                answer = card.process(message)
            elif message and message[0] == ATR:
                answer = card.atr()
            elif message:
                card.power(message[0])
                continue
            else:
                return
            connection.sendall(len(answer).to_bytes(2, "big") + answer)
            if not inserted:
                inserted = True
                print("inserted", flush=True)


def command_line(words: str) -> argparse.ArgumentParser:
    """A parser with what every card takes: where to dial. SIGTERM ends the process as Ctrl-C does."""
    parser = argparse.ArgumentParser(prog=words)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=35963)
    parser.add_argument("--stay", action="store_true", help="dial again when the reader comes back")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    return parser
