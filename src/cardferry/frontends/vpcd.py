"""A reader of another pcscd: vsmartcard's vpcd, whose driver listens at a TCP port for each slot (`CardPort`).

We dial in as a virtual card does (`cardferry.wire.vpcd`). A connection is a card: hanging up takes it out. The driver
asks for the answer to reset at every look at the reader, every 0.4 s; that is answered without the card.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from cardferry.frontends.card_ports import CardPort, Connection
from cardferry.frontends.lease import Lease, LostCardError
from cardferry.wire.vpcd import MAX_PAYLOAD, CardSide, Control

_READ_SIZE: Final = 0x10000
#: "No precise diagnosis" (ISO/IEC 7816-4, 5.6).
_NO_ANSWER: Final = b"\x6f\x00"


class VpcdPort(CardPort):
    """A slot of vpcd.

    Args:
        port: its TCP port on this computer.
    """

    in_pcscd = True

    def __init__(self, port: int) -> None:
        self.port = port

    def __str__(self) -> str:
        return f"pcscd's virtual reader at port {self.port}"

    async def dial(self) -> Connection:
        """Connect to the driver."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def show(self, lease: Lease, connection: Connection) -> None:
        """See `CardPort`."""
        reader, writer = connection
        codec = CardSide()
        sock = writer.get_extra_info("socket")
        asked = False
        try:
            while True:
                # vpcd 3.3 writes a command in two pieces and waits, by Nagle's rule, for an acknowledgement in between:
                # 40 ms for each command, unless we acknowledge at once. The system forgets that it was asked to.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                data = await reader.read(_READ_SIZE)
                if not data:
                    return
                for message in codec.receive(data):
                    asked = isinstance(message, bytes)
                    answer = await _answered(lease, message)
                    if answer is not None:
                        writer.write(codec.answer(answer))
                    asked = False
        finally:
            if asked:  # the driver would make a success without any bytes of a card that goes away meanwhile
                writer.write(codec.answer(_NO_ANSWER))


async def _answered(lease: Lease, message: Control | bytes) -> bytes | None:
    match message:
        case Control.GET_ATR:
            return lease.atr
        case Control.POWER_ON:
            await lease.power_on()
        case Control.POWER_OFF:
            await lease.power_off()
        case Control.RESET:
            await lease.reset()
        case bytes():
            response = await lease.transmit(message)
            if len(response) > MAX_PAYLOAD:
                raise LostCardError(f"a response of {len(response)} bytes does not fit in vpcd's protocol")
            return response
    return None
