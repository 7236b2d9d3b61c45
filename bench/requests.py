"""Counts what a program asks of pcscd: a relay between the two, on one computer.

Executed by the system's Python as ``python3 -m bench.requests LISTEN PCSCD``, with the standard library only. Says
`listening`, and for each line on standard input {"requests": n, "apdus": n} since the line before. The protocol of
pcsc-lite: a header of size and command, the body, and for TRANSMIT and CONTROL the bytes that they carry.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading

_HEADER = struct.Struct("<II")
_TRANSMIT, _CONTROL = 0x09, 0x0A
#: Where the body of these commands says how many bytes follow it.
_LENGTH_AT = {_TRANSMIT: 12, _CONTROL: 8}
_lock = threading.Lock()
_counts = {"requests": 0, "apdus": 0}


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _request(program: socket.socket) -> bytes:
    header = _exactly(program, _HEADER.size)
    size, command = _HEADER.unpack(header)
    body = _exactly(program, size)
    if command in _LENGTH_AT:
        (more,) = struct.unpack_from("<I", body, _LENGTH_AT[command])
        body += _exactly(program, more)
    with _lock:
        _counts["requests"] += 1
        _counts["apdus"] += command == _TRANSMIT
    return header + body


def _upward(program: socket.socket, pcscd: socket.socket) -> None:
    try:
        while True:
            pcscd.sendall(_request(program))
    except (EOFError, OSError):
        pcscd.close()


def _serve(program: socket.socket, path: str) -> None:
    pcscd = socket.socket(socket.AF_UNIX)
    pcscd.connect(path)
    threading.Thread(target=_upward, args=(program, pcscd), daemon=True).start()
    try:
        while data := pcscd.recv(65536):
            program.sendall(data)
    except OSError:
        pass
    program.close()


def _listen(listening: socket.socket, path: str) -> None:
    while True:
        program, _ = listening.accept()
        threading.Thread(target=_serve, args=(program, path), daemon=True).start()


def main() -> None:
    """Relay and count."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[1])
    listening.listen(16)
    threading.Thread(target=_listen, args=(listening, sys.argv[2]), daemon=True).start()
    print("listening", flush=True)
    for _ in sys.stdin:
        with _lock:
            print(json.dumps(_counts), flush=True)
            _counts.update(requests=0, apdus=0)


if __name__ == "__main__":
    main()
