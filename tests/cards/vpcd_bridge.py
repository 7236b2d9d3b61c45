"""A pcscd of our own in namespaces of its own, with a card object of this process in its vpcd reader.

Small on purpose: it tests cards, nothing of cardferry's readers. vpcd's protocol: each message is a 2-byte
big-endian length and that many bytes; a single byte is an order (0 off, 1 on, 2 reset, 4 tell your ATR), anything
longer a command. The card sends ATRs and responses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cardferry.pcsc.virtual_card import VirtualCard

PORT = 35963
TIMEOUT = 30.0

_CLONE_NEWNET = 0x4000_0000
_READER_CONFIGURATION = """\
FRIENDLYNAME "{name}"
DEVICENAME   /dev/null:{port:#x}
LIBPATH      /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID    {port:#x}
"""
_START = """\
set -e
ip link set lo up
mkdir -p /run/pcscd
mount -t tmpfs tmpfs /run/pcscd
exec pcscd --foreground --info --config "$1"
"""


class CardInPcscd:
    """A context: pcscd runs, and the card is in its reader and known to it.

    Args:
        card: a card of this process; a thread answers for it.
        folder: scratch space, where programs run.
        name: the reader's, to which pcscd adds " 00 00".
    """

    def __init__(self, card: VirtualCard, folder: Path, name: str = "Virtual PCD") -> None:
        self._card = card
        self._folder = folder
        self._name = name
        self._log: list[str] = []
        self._seen = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        configuration = self._folder / "reader.conf.d"
        configuration.mkdir()
        (configuration / "vpcd").write_text(_READER_CONFIGURATION.format(name=self._name, port=PORT))
        self._pcscd = subprocess.Popen(
            ["unshare", "-m", "-n", "sh", "-c", _START, "sh", str(configuration)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert self._pcscd.stdout is not None
            self._start(self._read_log, self._pcscd.stdout)
            self._wait_for("daemon ready")
            self._start(self._serve)
            self._wait_for("Card ATR: 3B")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(
        self,
        *command: str | Path,
        check: bool = True,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program beside this pcscd; its output, standard error included. A failure fails the test."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pcscd.pid), "-m", "-n", *map(str, command)],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self._folder,
            env={**os.environ, **(environment or {})},
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode == 0) is check, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _read_log(self, stream: IO[str]) -> None:
        for line in stream:
            with self._seen:
                self._log.append(line)
                self._seen.notify_all()

    def _wait_for(self, words: str) -> None:
        with self._seen:
            seen = self._seen.wait_for(lambda: any(words in line for line in self._log), TIMEOUT)
        assert seen, f"pcscd never said {words!r}:\n{''.join(self._log)}"

    def _serve(self) -> None:
        """The card's thread: it lives in pcscd's network, so that it can dial vpcd there."""
        with Path(f"/proc/{self._pcscd.pid}/ns/net").open("rb") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        with socket.create_connection(("127.0.0.1", PORT), TIMEOUT) as connection:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = connection
            while message := _receive(connection):
                if (answer := self._answer(message)) is not None:
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, message: bytes) -> bytes | None:
        match message:
            case b"\x00":
                self._card.power_off()
            case b"\x01":
                self._card.power_on()
            case b"\x02":
                self._card.reset()
            case b"\x04":
                return self._card.atr
            case _:
                return self._card.process(message)
        return None

    def _stop(self) -> None:
        self._pcscd.terminate()
        self._pcscd.wait(TIMEOUT)
        if self._connection is not None:
            # vpcd has closed its end; this wakes the thread if it has not
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in self._threads)


def _receive(connection: socket.socket) -> bytes:
    """The next message; empty when vpcd has gone."""
    return _exactly(connection, int.from_bytes(_exactly(connection, 2), "big"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        # vpcd writes length and body apart, with Nagle's algorithm on: without this the body waits 40 ms
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            part = connection.recv(size - len(data))
        except ConnectionResetError:
            part = b""
        if not part:
            return b""
        data += part
    return data
