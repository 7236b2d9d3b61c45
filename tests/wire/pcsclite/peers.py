"""Two codecs tied together, and ways to feed them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec
from cardferry.wire.pcsclite.layout import ByteOrder
from cardferry.wire.pcsclite.server import ServerCodec

BYTE_ORDERS: tuple[ByteOrder, ByteOrder] = ("little", "big")
MINORS = (2, 3, 4, 5, 6)


def pieces(data: bytes, seed: int, longest: int = 40) -> Iterator[bytes]:
    """``data`` cut into pieces of random size, 0 to ``longest`` bytes."""
    chance = random.Random(seed)
    offset = 0
    while offset < len(data):
        size = chance.randint(0, longest)
        yield data[offset : offset + size]
        offset += size


def agreed(minor: int, byte_order: ByteOrder, name_size: int = 128) -> tuple[ClientCodec, ServerCodec]:
    """A client and a server that have agreed on a level."""
    client, server = ClientCodec(byte_order=byte_order, name_size=name_size), ServerCodec(name_size=name_size)
    [version] = server.receive(client.send(m.Version(4, minor)))
    assert isinstance(version, m.Version)
    [reply] = client.receive(server.version(version))
    assert isinstance(reply, m.VersionReply)
    assert reply.level == minor
    client.minor = reply.level
    return client, server


def asked(server: ServerCodec, data: bytes | bytearray | memoryview) -> list[m.Request]:
    """What the server makes of bytes that are in order."""
    requests = server.receive(data)
    assert server.error is None
    return requests
