"""Many idle programs in one process: executed as a file, with the standard library only.

crowd.py SOCKET COUNT READER     connect, establish a context, connect to the reader, wait for a change; say "ready"
                                 and keep all of that until a line comes in
"""

from __future__ import annotations

import resource
import socket
import struct
import sys

_VERSION = struct.Struct("<IIiiI")
_ESTABLISH = struct.Struct("<IIIII")
_CONNECT = struct.Struct("<III128sIIiII")
_WAIT = struct.Struct("<II")
_STATES_SIZE = 16 * 184


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _program(path: str, reader: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(_VERSION.pack(12, 0x11, 4, 4, 0))
    _exactly(connection, 12)
    connection.sendall(_ESTABLISH.pack(12, 0x01, 0, 0, 0))
    _, context, rv = struct.unpack("<III", _exactly(connection, 12))
    assert rv == 0
    connection.sendall(_CONNECT.pack(152, 0x04, context, reader.encode(), 2, 3, 0, 0, 0))
    assert _exactly(connection, 152)[-4:] == bytes(4)
    connection.sendall(_WAIT.pack(0, 0x13))
    _exactly(connection, _STATES_SIZE)
    return connection


def main() -> None:
    """See the module."""
    path, count, reader = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    programs = [_program(path, reader) for _ in range(count)]
    print("ready", flush=True)
    sys.stdin.readline()
    for program in programs:
        program.close()


if __name__ == "__main__":
    main()
