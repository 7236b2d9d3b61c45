"""Servers that behave as pcscd does in situations which cannot be had on demand here.

Executed as a file with the standard library only; prints `listening`, later one line a connection: who is there, as
the kernel says (SO_PEERCRED), for instance `peer sshd`.

    false_pcscd.py deny PATH              closes each connection unread, as pcscd does when polkit says no
    false_pcscd.py version PATH MINOR     refuses every protocol version but 4:MINOR, and serves none
    false_pcscd.py translate PATH MINOR REAL   refuses every version but 4:MINOR; passes that one on to the real
                                          pcscd at REAL, to which it says 4:4

Protocol versions: pcsc-lite's winscard_msg.h and ContextThread() in winscard_svc.c.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from pathlib import Path

_VERSION = struct.Struct("=IIiiI")  # header (size, command) and body (major, minor, rv)
_E_SERVICE_STOPPED = 0x8010001E


def peer_name(connection: socket.socket) -> str:
    """The name of the program at the other end."""
    pid = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return f"pid {pid}"


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, fewer at the end."""
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def pipe(source: socket.socket, target: socket.socket) -> None:
    """Copy until the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def serve(connection: socket.socket, minor: int, real: str | None) -> None:
    """Refuse, or pass on, one connection."""
    with connection:
        while True:
            data = receive(connection, _VERSION.size)
            if len(data) < _VERSION.size:
                return
            size, command, major, wanted, _ = _VERSION.unpack(data)
            if (size, command) == (12, 0x11) and (major, wanted) == (4, minor) and real:
                break
            connection.sendall(struct.pack("=iiI", 4, minor, _E_SERVICE_STOPPED))
        with socket.socket(socket.AF_UNIX) as pcscd:
            pcscd.connect(real)
            pcscd.sendall(_VERSION.pack(12, 0x11, 4, 4, 0))
            receive(pcscd, 12)
            connection.sendall(struct.pack("=iiI", 4, minor, 0))
            back = threading.Thread(target=pipe, args=(pcscd, connection), daemon=True)
            back.start()
            pipe(connection, pcscd)
            back.join()


def main() -> None:
    """Listen for ever."""
    behaviour, path, *rest = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        print("peer", peer_name(connection), flush=True)
        if behaviour == "deny":
            # wait for the whole request to be there, unread: closing then is what makes it a reset
            while 0 < len(connection.recv(_VERSION.size, socket.MSG_PEEK)) < _VERSION.size:
                time.sleep(0.001)  # MSG_WAITALL does not wait when peeking
            connection.close()
        else:
            real = rest[1] if behaviour == "translate" else None
            threading.Thread(target=serve, args=(connection, int(rest[0]), real), daemon=True).start()


if __name__ == "__main__":
    main()
