"""A web server that asks who comes for a certificate: ``https_server.py ADDRESS SERVER.pem CLIENTS.pem``, on port 443.

It says the common name and unit of each visitor on its standard output. Needs nothing but Python.
"""

from __future__ import annotations

import http.server
import ssl
import sys
from typing import Any


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.connection, ssl.SSLSocket)
        subject: Any = (self.connection.getpeercert() or {})["subject"]
        name = ", ".join(value for part in subject for _, value in part)
        print("visitor", name, flush=True)
        page = f"<!doctype html><title>Hello {name}</title>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


if __name__ == "__main__":
    _address, _own, _clients = sys.argv[1:]
    _context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _context.load_cert_chain(_own)
    _context.load_verify_locations(_clients)
    _context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer((_address, 443), _Handler) as _server:
        _server.socket = _context.wrap_socket(_server.socket, server_side=True, do_handshake_on_connect=False)
        print("ready", flush=True)
        _server.serve_forever()
