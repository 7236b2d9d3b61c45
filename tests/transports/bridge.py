"""``python3 -IS bridge.py SOCKET``: between its standard streams and a Unix socket, as `docker exec` does."""

import os
import socket
import sys
import threading

there = socket.socket(socket.AF_UNIX)
try:
    there.connect(sys.argv[1])
except OSError as error:
    sys.exit(f"bridge: {error.strerror}")


def to_the_socket() -> None:
    try:
        while data := os.read(0, 65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)
    except OSError:
        os._exit(0)  # who listened there has gone


threading.Thread(target=to_the_socket, daemon=True).start()
try:
    while data := there.recv(65536):
        while data:
            data = data[os.write(1, data) :]
except OSError:
    pass
os._exit(0)
