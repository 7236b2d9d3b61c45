"""The card reader of a virtual machine: QEMU's ``ccid-card-passthru``, over a Unix socket (`CardPort`).

QEMU listens (``-chardev socket,server=on,wait=off``), so that the machine can be started before us, and we come again.
It shows its machine a USB reader that works at the level of TPDUs and knows T=0 only (CCID 1.1, 5.1), so that a card
of T=1 becomes one of T=0 (`cardferry.wire.t0`). Power and resets stay inside of the machine (`cardferry.wire.vscard`):
a card that gets no command for `KEEP` is let go.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from cardferry.frontends.card_ports import ABSENCE, CardPort, Connection
from cardferry.frontends.lease import Lease
from cardferry.wire.t0 import Command, T0Adapter, t0_atr
from cardferry.wire.vscard import TO_CARD, Kind, Message, MessageStream

log = logging.getLogger(__name__)

#: s; see `Lease`.
KEEP: Final = 60.0
_READ_SIZE: Final = 0x10000


class QemuPort(CardPort):
    """The reader of one machine.

    Args:
        path: where its QEMU listens.
    """

    keep = KEEP

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = True

    def __str__(self) -> str:
        return f"the virtual machine at {self.path}"

    async def dial(self) -> Connection:
        """Connect to QEMU."""
        return await asyncio.open_unix_connection(self.path)

    async def show(self, lease: Lease, connection: Connection) -> None:
        """See `CardPort`."""
        reader, writer = connection
        for greeting in (Message.init(), Message(Kind.READER_ADD)):
            writer.write(greeting.encoded())
        if self._first:
            # Whoever was here before us may have left without a word: the machine then still waits for its card.
            writer.write(Message(Kind.CARD_REMOVE).encoded())
            await asyncio.sleep(ABSENCE)
            self._first = False
        writer.write(Message(Kind.ATR, t0_atr(lease.atr)).encoded())
        try:
            await self._serve(lease, reader, writer)
        finally:
            writer.write(Message(Kind.CARD_REMOVE).encoded())

    async def _serve(self, lease: Lease, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = MessageStream(TO_CARD)
        adapter = T0Adapter()
        while data := await reader.read(_READ_SIZE):
            for message in stream.receive(data):
                match message.kind:
                    case Kind.APDU:
                        answer = await _answered(lease, adapter, message.payload)
                        writer.write(Message(Kind.APDU, answer).encoded())
                    case Kind.FLUSH:
                        writer.write(Message(Kind.FLUSH_COMPLETE, reader=message.reader).encoded())
                    case Kind.ERROR if message.number:
                        log.warning("%s does not want what it was told: error %d", self, message.number)
                    case _:
                        pass  # its greeting, and that what it was told has succeeded


async def _answered(lease: Lease, adapter: T0Adapter, tpdu: bytes) -> bytes:
    step = adapter.take(tpdu)
    while isinstance(step, Command):
        step = adapter.answer(await lease.transmit(step.apdu, step.tpdu))
    return step
