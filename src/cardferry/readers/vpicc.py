"""Readers for cards that dial in: we listen as vsmartcard's vpcd does, and need no pcscd for it.

Each reader has a TCP port, or there is one reader with a Unix socket. A card that connects there is in the reader until
it hangs up; while a card is in, the next free reader takes whoever dials in at this port. Bytes go `VpiccPort.exchange`
-> one write -> the card, and the answer resolves the future of that call. Every message is one write, so that no
delayed acknowledgement slows it down.

A card is anybody who can reach the port, and that is every user of this computer; a Unix socket has access rights.
Everything a card sends is bounded and checked, and it must tell its ATR in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from functools import partial
from typing import Final, cast

from cardferry.pcsc.constants import MAX_ATR_SIZE
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import within
from cardferry.readers.slot import SlotReader, SlotSource
from cardferry.wire.errors import WireError
from cardferry.wire.vpcd import DEFAULT_PORT, MAX_PAYLOAD, MIN_APDU, Control, ReaderSide

log = logging.getLogger(__name__)

#: How long a card may take to tell its ATR, in s.
ATR_TIMEOUT: Final = 5.0
#: Connections that have not told their ATR yet; more are refused.
_MOST_DIALLING: Final = 16
#: A card that vanishes without a word is noticed after about so long without a word, in s.
_SILENCE: Final = 30
_SHORTEST_ATR: Final = 2
_SHORTEST_RESPONSE: Final = 2


class VpiccPort(asyncio.Protocol):
    """The connection of one card. Also its place in a reader: see `CardPort`.

    Args:
        source: whom to tell when the card comes and goes.
        wish: the reader whose port was dialled.
    """

    def __init__(self, source: VpiccSource, wish: SlotReader) -> None:
        self._source = source
        self.wish = wish
        self._codec = ReaderSide()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes] | None = None
        #: Who has waited for an answer and gave up: it comes nevertheless.
        self._abandoned: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""

    # the card, as its reader uses it

    async def power_on(self) -> bytes:
        """Power the card, or reset it cold; return its ATR."""
        return await self._power(Control.POWER_ON)

    async def reset(self) -> bytes:
        """Reset the card warm; return its ATR."""
        return await self._power(Control.RESET)

    async def power_off(self) -> None:
        """Take the power away."""
        await self._idle()
        self._write(self._codec.control(Control.POWER_OFF))

    async def exchange(self, apdu: bytes) -> bytes:
        """Let the card answer a command. No limit of time: a card may make a key."""
        if not MIN_APDU <= len(apdu) <= MAX_PAYLOAD:
            raise PcscError(ReturnCode.E_INVALID_PARAMETER, f"{len(apdu)} bytes cannot be sent to a vpicc card")
        await self._idle()
        response = await self._ask(self._codec.command(apdu))
        if len(response) < _SHORTEST_RESPONSE:
            self._drop("its response has no status word")
            raise PcscError(ReturnCode.F_COMM_ERROR, "response without a status word")
        return response

    async def _power(self, control: Control) -> bytes:
        await self._idle()
        try:
            message = self._codec.control(control) + self._codec.control(Control.GET_ATR)
            atr = await within(self._ask(message), self._loop.time() + ATR_TIMEOUT)
        except TimeoutError:
            self._drop(f"it tells no ATR within {ATR_TIMEOUT:g} s")
            raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD, "no ATR") from None
        if not _SHORTEST_ATR <= len(atr) <= MAX_ATR_SIZE:
            self._drop(f"its ATR has {len(atr)} bytes")
            raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD, "no ATR")
        return atr

    async def _idle(self) -> None:
        """Wait for the answer that a cancelled caller has left behind."""
        if self._abandoned is not None:
            await asyncio.wait((self._abandoned,))
        if self._transport is None:
            raise PcscError(ReturnCode.E_NO_SMARTCARD, "the card has hung up")

    async def _ask(self, message: bytes) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answer = answer
        self._write(message)
        try:
            # `wait` leaves the future alone when this task is cancelled: the answer comes nevertheless.
            await asyncio.wait((answer,))
        except asyncio.CancelledError:
            if not answer.done():
                self._abandoned = answer
            raise
        return answer.result()

    def _write(self, message: bytes) -> None:
        if self._transport is None:
            raise PcscError(ReturnCode.E_NO_SMARTCARD, "the card has hung up")
        self._transport.write(message)

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A card dials in: power it and ask for its ATR."""
        self._transport = cast(asyncio.Transport, transport)
        self.peer = _name_of(transport.get_extra_info("peername") or transport.get_extra_info("sockname"))
        _keep_alive(transport.get_extra_info("socket"))
        if not self._source.dialled(self):
            self._drop("there is no free reader")
            return
        self._timer = self._loop.call_later(ATR_TIMEOUT, self._drop, f"it tells no ATR within {ATR_TIMEOUT:g} s")
        self._write(self._codec.control(Control.POWER_ON) + self._codec.control(Control.GET_ATR))

    def data_received(self, data: bytes) -> None:
        """An answer comes in."""
        try:
            answers = self._codec.receive(data)
        except WireError as error:
            answers = cast("list[bytes]", list(error.received))
            self._answered(answers)
            self._drop(str(error))
            return
        self._answered(answers)

    def _answered(self, answers: list[bytes]) -> None:
        for answer in answers:
            if self._timer is not None:
                self._first_atr(answer)
                continue
            future, self._answer, self._abandoned = self._answer, None, None
            if future is not None and not future.done():
                future.set_result(answer)

    def _first_atr(self, atr: bytes) -> None:
        self._stop_timer()
        if not _SHORTEST_ATR <= len(atr) <= MAX_ATR_SIZE:
            self._drop(f"its ATR has {len(atr)} bytes")
        elif not self._source.card_came(self, atr):
            self._drop("there is no free reader")

    def connection_lost(self, exc: Exception | None) -> None:
        """The card has hung up."""
        self._gone()

    def _drop(self, reason: str) -> None:
        if self._transport is None:
            return
        log.warning("vpicc card from %s is dropped: %s", self.peer, reason)
        self.abort()

    def abort(self) -> None:
        """Hang up."""
        transport = self._transport
        self._gone()
        if transport is not None:
            transport.abort()

    def _gone(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._stop_timer()
        answer, self._answer, self._abandoned = self._answer, None, None
        if answer is not None and not answer.done():
            answer.set_exception(PcscError(ReturnCode.E_NO_SMARTCARD, "the card has hung up"))
            answer.exception()  # the caller may have gone
        self._source.card_went(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class VpiccSource(SlotSource):
    """Readers at TCP ports, or one at a Unix socket, where cards dial in.

    Args:
        host: the address to listen at. Whoever can reach it can put a card in; nothing is encrypted.
        port: the port of the first reader; 0 lets the system choose each.
        slots: how many readers, at one port each.
        name: readers are called this, with pcscd's two numbers behind it.
        listening: a bound Unix socket, instead of the ports; it is closed with the source.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        slots: int = 1,
        name: str = "cardferry vpicc",
        listening: socket.socket | None = None,
    ) -> None:
        super().__init__()
        self._host = host
        self._listening = listening
        self._wanted_ports = tuple(port + slot if port else 0 for slot in range(slots))
        self._servers: list[asyncio.Server] = []
        self._inside: dict[VpiccPort, SlotReader] = {}
        self._dialling: set[VpiccPort] = set()
        for slot in range(slots):
            self._add(SlotReader(f"{name} 00 {slot:02X}", channel=slot))

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that are listened at, while listening."""
        return tuple(server.sockets[0].getsockname()[1] for server in self._servers)

    async def listen(self) -> None:
        """Open the ports; `run` does it otherwise. Raises `OSError`, with all of them closed again."""
        if self._servers:
            return
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as undo:
            servers = []
            for reader, port in zip(self.readers, self._wanted_ports, strict=True):
                place = partial(VpiccPort, self, reader)
                if self._listening is None:
                    server = await loop.create_server(place, self._host, port)
                else:
                    server = await loop.create_unix_server(place, sock=self._listening)
                undo.callback(server.close)
                servers.append(server)
            undo.pop_all()
        self._servers = servers

    def close(self) -> None:
        """Close the ports and hang up on all cards."""
        for server in self._servers:
            server.close()
        self._servers = []
        for port in (*self._dialling, *self._inside):
            port.abort()

    def dialled(self, port: VpiccPort) -> bool:
        """For `VpiccPort`: a card dials in. Returns whether it may."""
        if len(self._dialling) >= _MOST_DIALLING or self._free(port.wish) is None:
            return False
        self._dialling.add(port)
        return True

    def card_came(self, port: VpiccPort, atr: bytes) -> bool:
        """For `VpiccPort`: the card has told its ATR. Returns whether a reader takes it."""
        self._dialling.discard(port)
        reader = self._free(port.wish)
        if reader is None:
            return False
        self._inside[port] = reader
        log.info("%s: a card from %s", reader.name, port.peer)
        self._insert(reader, port, atr, powered=True)
        return True

    def card_went(self, port: VpiccPort) -> None:
        """For `VpiccPort`: the connection has ended."""
        self._dialling.discard(port)
        reader = self._inside.pop(port, None)
        if reader is not None:
            log.info("%s: the card from %s has hung up", reader.name, port.peer)
            self._eject(reader)

    def _free(self, wish: SlotReader) -> SlotReader | None:
        return next((reader for reader in (wish, *self.readers) if not reader.occupied), None)

    async def _serve(self) -> None:
        try:
            await self.listen()
            await super()._serve()
        finally:
            self.close()


def _name_of(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address or "?")


def _keep_alive(sock: socket.socket | None) -> None:
    """Have the system ask whether the card is still there."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", _SILENCE // 2), ("TCP_KEEPINTVL", _SILENCE // 6), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
