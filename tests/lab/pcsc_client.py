"""A small PC/SC program over the system's unmodified libpcsclite, driven from the command line.

Executed as a file by any Python 3.11, with the standard library only, so that it also runs where nothing of this
project is. Prints one JSON object on standard output (`watch` and `hold`: one a line, as things happen).

    pcsc_client.py list                                readers, with state and ATR
    pcsc_client.py wait READER present|absent [--seconds S]   wait for a card to come or go
    pcsc_client.py apdu READER HEX...                  connect, transmit each in one transaction, disconnect
    pcsc_client.py loop READER --seconds S [--count N] [--apdu HEX] [--work MS] [--exclusive] [--start]
                               [--commands N] [--connect]
                                                       begin, transmit, end, again and again; with timing
    pcsc_client.py transmit READER --count N [--apdu HEX]   one APDU after another, no transaction, with timing
    pcsc_client.py setup READER --count N              establish, list, connect, disconnect, release, with timing
    pcsc_client.py hold READER [--exclusive] [--reset] [--first HEX]
                                                       connect, begin, say "held", keep it until a line comes in
    pcsc_client.py begin READER                        connect, say "connected", one transaction when a line comes in
    pcsc_client.py switch FIRST SECOND                 establish with PCSCLITE_CSOCK_NAME=FIRST, then, in the same
                                                       process, with SECOND: the two results
    pcsc_client.py watch                               say each change of a reader until standard input ends

In `READER`, a part of the name is enough. Errors: {"error": "0x8010001d", "call": "SCardEstablishContext"}
and exit code 1. Times are seconds. pcsc-lite's winscard.h and pcsclite.h describe the calls.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from ctypes import Structure, byref, c_char, c_char_p, c_long, c_ubyte, c_ulong, c_void_p
from typing import Any

SHARED, EXCLUSIVE = 2, 1
LEAVE, RESET = 0, 1
ANY_PROTOCOL = 3
PRESENT, EMPTY = 0x20, 0x10
INFINITE = 0xFFFFFFFF
E_TIMEOUT = 0x8010000A
MAX_ATR, MAX_RESPONSE = 33, 65538
PLUG_AND_PLAY = b"\\\\?PnP?\\Notification"


class ScardError(Exception):
    """A call returned an error."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call}: {code:#010x}")
        self.call, self.code = call, code


class ReaderState(Structure):
    """SCARD_READERSTATE."""

    _fields_ = (
        ("reader", c_char_p),
        ("user_data", c_void_p),
        ("current_state", c_ulong),
        ("event_state", c_ulong),
        ("atr_size", c_ulong),
        ("atr", c_ubyte * MAX_ATR),
    )


class IoRequest(Structure):
    """SCARD_IO_REQUEST."""

    _fields_ = (("protocol", c_ulong), ("size", c_ulong))


class Library:
    """libpcsclite, each call raising `ScardError`."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libpcsclite.so.1")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by name."""
        function = self._library[name]
        function.restype = c_long
        code = function(*arguments) & 0xFFFFFFFF
        if code:
            raise ScardError(name, code)


class Context:
    """One SCARDCONTEXT."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._handle = c_long()
        library.call("SCardEstablishContext", c_ulong(2), None, None, byref(self._handle))

    def readers(self) -> list[str]:
        """The readers' names."""
        size = c_ulong(65536)
        buffer = ctypes.create_string_buffer(size.value)
        try:
            self.library.call("SCardListReaders", self._handle, None, buffer, byref(size))
        except ScardError as error:
            if error.code == 0x8010002E:
                return []
            raise
        return [os.fsdecode(name) for name in buffer.raw[: size.value].split(b"\0") if name]

    def find(self, part: str) -> str:
        """The first reader whose name contains ``part``."""
        for name in self.readers():
            if part in name:
                return name
        raise ScardError("SCardListReaders", 0x80100009)

    def states(self, entries: list[tuple[bytes, int]], timeout: float | None) -> list[tuple[str, int, str]]:
        """SCardGetStatusChange: (name, event state, ATR in hex) of each (name, known state).

        ``timeout`` in s; None waits for ever, 0 returns at once.
        """
        array = (ReaderState * len(entries))()
        for record, (name, known) in zip(array, entries, strict=True):
            record.reader, record.current_state = name, known
        milliseconds = INFINITE if timeout is None else int(timeout * 1000)
        try:
            self.library.call("SCardGetStatusChange", self._handle, c_ulong(milliseconds), array, c_ulong(len(entries)))
        except ScardError as error:
            if error.code != E_TIMEOUT or timeout != 0:
                raise
        return [
            (os.fsdecode(record.reader), record.event_state, bytes(record.atr[: record.atr_size]).hex())
            for record in array
        ]

    def connect(self, reader: str, share: int = SHARED) -> Card:
        """SCardConnect."""
        handle, protocol = c_long(), c_ulong()
        self.library.call(
            "SCardConnect",
            self._handle,
            c_char_p(os.fsencode(reader)),
            c_ulong(share),
            c_ulong(ANY_PROTOCOL),
            byref(handle),
            byref(protocol),
        )
        return Card(self.library, handle, protocol.value)

    def release(self) -> None:
        """SCardReleaseContext."""
        self.library.call("SCardReleaseContext", self._handle)


class Card:
    """One SCARDHANDLE."""

    def __init__(self, library: Library, handle: c_long, protocol: int) -> None:
        self.library = library
        self.protocol = protocol
        self._handle = handle
        self._pci = IoRequest(protocol, ctypes.sizeof(IoRequest))
        self._buffer = (c_char * MAX_RESPONSE)()

    def begin(self) -> None:
        """SCardBeginTransaction."""
        self.library.call("SCardBeginTransaction", self._handle)

    def end(self, disposition: int = LEAVE) -> None:
        """SCardEndTransaction."""
        self.library.call("SCardEndTransaction", self._handle, c_ulong(disposition))

    def transmit(self, apdu: bytes) -> bytes:
        """SCardTransmit."""
        size = c_ulong(MAX_RESPONSE)
        self.library.call(
            "SCardTransmit",
            self._handle,
            byref(self._pci),
            c_char_p(apdu),
            c_ulong(len(apdu)),
            None,
            self._buffer,
            byref(size),
        )
        return ctypes.string_at(self._buffer, size.value)

    def reconnect(self, share: int = SHARED) -> None:
        """SCardReconnect, leaving the card."""
        active = c_ulong()
        self.library.call(
            "SCardReconnect", self._handle, c_ulong(share), c_ulong(ANY_PROTOCOL), c_ulong(LEAVE), byref(active)
        )

    def disconnect(self) -> None:
        """SCardDisconnect, leaving the card."""
        self.library.call("SCardDisconnect", self._handle, c_ulong(LEAVE))


def say(**values: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(values), flush=True)


def do_list(options: argparse.Namespace) -> None:
    """Readers with their states."""
    context = Context(Library())
    names = context.readers()
    states = context.states([(os.fsencode(name), 0) for name in names], 0) if names else []
    say(readers=[{"name": name, "state": state & 0xFFFF, "atr": atr} for name, state, atr in states])
    context.release()


def do_wait(options: argparse.Namespace) -> None:
    """Wait for a card to come or go."""
    context = Context(Library())
    reader = os.fsencode(context.find(options.reader))
    wanted = PRESENT if options.what == "present" else EMPTY
    known, deadline = 0, time.monotonic() + options.seconds
    while True:
        _, state, atr = context.states([(reader, known)], max(0.001, deadline - time.monotonic()))[0]
        if state & wanted and (wanted == EMPTY or atr):
            break
        known = state & ~2
    say(reader=os.fsdecode(reader), atr=atr, state=state & 0xFFFF)
    context.release()


def do_apdu(options: argparse.Namespace) -> None:
    """Transmit APDUs in one transaction."""
    context = Context(Library())
    card = context.connect(context.find(options.reader), EXCLUSIVE if options.exclusive else SHARED)
    card.begin()
    answers = [card.transmit(bytes.fromhex(apdu)).hex() for apdu in options.apdus]
    card.end()
    card.disconnect()
    context.release()
    say(answers=answers, protocol=card.protocol)


def repeat(options: argparse.Namespace, action: Callable[[], None]) -> dict[str, Any]:
    """Do ``action`` for so many times or seconds; returns what there is to say: how many, how long each."""
    if options.start:
        say(ready=True)
        sys.stdin.readline()
    durations: list[float] = []
    errors: dict[str, int] = {}
    begin = time.monotonic()
    while len(durations) < options.count and (now := time.monotonic()) - begin < options.seconds:
        try:
            action()
        except ScardError as error:
            errors[f"{error.code:#010x}"] = errors.get(f"{error.code:#010x}", 0) + 1
            if sum(errors.values()) > options.errors:
                raise
            continue
        durations.append(time.monotonic() - now)
    total = time.monotonic() - begin
    return {
        "count": len(durations),
        "seconds": total,
        "errors": errors,
        "durations": [round(value, 7) for value in durations],
    }


def do_loop(options: argparse.Namespace) -> None:
    """Begin, transmit, end; ``turns`` has each one's asked, owned and released on the system's monotonic clock."""
    context = Context(Library())
    reader, share = context.find(options.reader), EXCLUSIVE if options.exclusive else SHARED
    card = context.connect(reader, share)
    apdu = bytes.fromhex(options.apdu)

    turns: list[tuple[float, float, float]] = []
    asked = 0.0

    def turn() -> None:
        nonlocal card, asked
        asked = asked or time.monotonic()
        if options.connect:
            card = context.connect(reader, share)
        card.begin()
        owned = time.monotonic()
        for _ in range(options.commands):
            card.transmit(apdu)
        if options.work:
            time.sleep(options.work / 1000)
        card.end()
        if options.connect:
            card.disconnect()
        turns.append((round(asked, 7), round(owned, 7), round(time.monotonic(), 7)))
        asked = 0.0

    if options.connect:
        card.disconnect()
    say(**repeat(options, turn), turns=turns)
    context.release()


def do_transmit(options: argparse.Namespace) -> None:
    """One APDU after another."""
    context = Context(Library())
    card = context.connect(context.find(options.reader))
    apdu = bytes.fromhex(options.apdu)
    card.transmit(apdu)

    def once() -> None:
        card.transmit(apdu)

    say(**repeat(options, once))
    context.release()


def do_setup(options: argparse.Namespace) -> None:
    """Everything around an APDU, without one."""
    library = Library()

    def once() -> None:
        context = Context(library)
        context.connect(context.find(options.reader)).disconnect()
        context.release()

    say(**repeat(options, once))


def do_hold(options: argparse.Namespace) -> None:
    """Hold the card until told to let go; then one APDU tells how it fared."""
    context = Context(Library())
    card = context.connect(context.find(options.reader), EXCLUSIVE if options.exclusive else SHARED)
    card.begin()
    if options.first:
        card.transmit(bytes.fromhex(options.first))
    say(held=True, pid=os.getpid())
    sys.stdin.readline()
    answer = card.transmit(bytes.fromhex(options.apdu)).hex()
    card.end(RESET if options.reset else LEAVE)
    context.release()
    say(answer=answer)


def do_begin(options: argparse.Namespace) -> None:
    """Have a transaction when told to; the error says which call it was that failed."""
    context = Context(Library())
    card = context.connect(context.find(options.reader))
    say(connected=True)
    sys.stdin.readline()
    card.begin()
    answer = card.transmit(bytes.fromhex(options.apdu)).hex()
    card.end()
    context.release()
    say(answer=answer)


def do_switch(options: argparse.Namespace) -> None:
    """What a process gets that changes its mind about the socket."""
    results = []
    library = Library()
    for path in (options.first, options.second):
        os.environ["PCSCLITE_CSOCK_NAME"] = path
        try:
            Context(library).release()
        except ScardError as error:
            results.append(f"{error.code:#010x}")
        else:
            results.append("ok")
    say(results=results)


def do_watch(options: argparse.Namespace) -> None:
    """Report changes until killed."""
    context = Context(Library())
    known: dict[str, int] = {}
    counted = 0
    while True:
        names = context.readers()
        entries = [(os.fsencode(name), known.get(name, 0)) for name in names] + [(PLUG_AND_PLAY, counted)]
        *states, (_, plugged, _) = context.states(entries, None)
        counted = plugged & ~2
        for name, state, atr in states:
            if state & 2 or name not in known:
                say(reader=name, state=state & 0xFFFF, events=state >> 16, atr=atr)
            known[name] = state & ~2


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="pcsc_client")
    commands = parser.add_subparsers(required=True)

    def command(name: str, action: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name)
        sub.set_defaults(action=action)
        if name not in ("list", "watch", "switch"):
            sub.add_argument("reader")
        sub.add_argument("--exclusive", action="store_true")
        sub.add_argument("--apdu", default="00A4040000")
        sub.add_argument("--start", action="store_true", help="say ready, begin when a line comes in")
        sub.add_argument("--seconds", type=float, default=float("inf"))
        sub.add_argument("--count", type=int, default=sys.maxsize)
        sub.add_argument("--work", type=float, default=0.0, help="ms inside each transaction")
        sub.add_argument("--errors", type=int, default=0, help="go on after so many errors")
        return sub

    command("list", do_list)
    wait = command("wait", do_wait)
    wait.add_argument("what", choices=("present", "absent"))
    wait.set_defaults(seconds=20.0)
    command("apdu", do_apdu).add_argument("apdus", nargs="+")
    loop = command("loop", do_loop)
    loop.add_argument("--commands", type=int, default=1, help="in each transaction")
    loop.add_argument("--connect", action="store_true", help="connect for each turn; an error begins the turn anew")
    command("transmit", do_transmit)
    command("setup", do_setup)
    hold = command("hold", do_hold)
    hold.add_argument("--reset", action="store_true", help="end with a reset of the card")
    hold.add_argument("--first", default="", help="a command before it says so")
    command("begin", do_begin)
    command("watch", do_watch)
    switch = command("switch", do_switch)
    switch.add_argument("first")
    switch.add_argument("second")
    return parser.parse_args(words)


def main() -> int:
    """Run one command."""
    options = parse(sys.argv[1:])
    try:
        options.action(options)
    except ScardError as error:
        say(error=f"{error.code:#010x}", call=error.call)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
