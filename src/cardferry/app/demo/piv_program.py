"""The smallest PIV program: signs and reads the certificate over a pcsc-lite socket, for where no OpenSC is installed.

    python -m cardferry.app.demo.piv_program SOCKET sign DOCUMENT SIGNATURE
    python -m cardferry.app.demo.piv_program SOCKET certificate FILE

APDUs as in NIST SP 800-73-4 part 2: SELECT, VERIFY, GENERAL AUTHENTICATE with key 9A, GET DATA 5FC105.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from pathlib import Path
from typing import TypeVar

from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import CommandApdu, ResponseApdu
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec

_PIV = bytes.fromhex("a000000308")
_PIN = b"123456\xff\xff"
_CERTIFICATE_9A = bytes.fromhex("5fc105")
_CHUNK = 65536
R = TypeVar("R")


class Card:
    """A connection to the first reader's card over a pcsc-lite socket; blocking.

    Args:
        path: the socket.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._codec = ClientCodec()
        self._ask(m.Version(), m.VersionReply)
        context = self._ask(m.EstablishContext(2), m.ContextReply)
        states = self._ask(m.GetReadersState(), m.StatesReply)
        reader = next((reader.name for reader in states.readers if reader.atr), None)
        if reader is None:
            raise SystemExit("error: no card")
        connect = m.Connect(context.context, reader, ShareMode.SHARED, Protocol.ANY)
        connected = self._ask(connect, m.ConnectReply)
        self._card, self._protocol = connected.card, connected.protocol
        self._ask(m.BeginTransaction(self._card), m.Acknowledged)
        self.command(0xA4, 0x04, 0x00, _PIV, le=256)

    def close(self) -> None:
        """End the transaction and hang up."""
        self._ask(m.EndTransaction(self._card, Disposition.LEAVE), m.Acknowledged)
        self._ask(m.Disconnect(self._card, Disposition.RESET), m.Acknowledged)
        self._socket.close()

    def _ask(self, request: m.Request, kind: type[R]) -> R:
        self._socket.sendall(self._codec.send(request))
        while True:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise SystemExit("error: the connection was closed")
            for reply in self._codec.receive(data):
                rv = getattr(reply, "rv", 0)
                if rv or not isinstance(reply, kind):
                    raise SystemExit(f"error: {type(request).__name__} failed with {rv:#010x}")
                return reply

    def command(self, ins: int, p1: int, p2: int, data: bytes = b"", le: int = 0) -> bytes:
        """Send a command, follow ``61xx``, return all data."""
        apdu = CommandApdu(0x00, ins, p1, p2, data, le)
        answer = b""
        while True:
            reply = self._ask(m.Transmit(self._card, self._protocol, apdu.encode()), m.TransmitReply)
            response = ResponseApdu.parse(reply.response)
            answer += response.data
            if response.status.remaining is not None:
                apdu = CommandApdu(0x00, 0xC0, 0x00, 0x00, b"", response.status.remaining)
            elif response.status.is_success:
                return answer
            else:
                raise SystemExit(f"error: the card says {response.status}")


def sign(card: Card, document: bytes) -> bytes:
    """An ECDSA signature of the document (DER) with key 9A."""
    card.command(0x20, 0x00, 0x80, _PIN)
    digest = hashlib.sha256(document).digest()
    template = tlv.encode(0x7C, tlv.encode(0x82), tlv.encode(0x81, digest))
    answer = card.command(0x87, 0x11, 0x9A, template, le=256)
    return tlv.parse_one(tlv.parse_one(answer, 0x7C), 0x82)


def certificate(card: Card) -> bytes:
    """The certificate of key 9A (DER)."""
    answer = card.command(0xCB, 0x3F, 0xFF, tlv.encode(0x5C, _CERTIFICATE_9A), le=256)
    return tlv.parse_map(tlv.parse_one(answer, 0x53))[0x70]


def main(socket_path: str, what: str, *files: str) -> None:
    """Do what the module's docstring says."""
    card = Card(socket_path)
    if what == "sign":
        Path(files[1]).write_bytes(sign(card, Path(files[0]).read_bytes()))
    else:
        Path(files[0]).write_bytes(certificate(card))
    card.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
