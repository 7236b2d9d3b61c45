"""Whom a process is connected to."""

from __future__ import annotations

import os
import socket

from cardferry.system.peers import tcp_peers


def test_connections_over_tcp_and_nothing_else_are_found() -> None:
    assert tcp_peers(os.getpid()) == set()
    kept = []
    for address in ("127.0.0.1", "::1"):
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as door:
            kept.append(socket.create_connection(door.getsockname()[:2]))
            assert address in tcp_peers(os.getpid())
            kept.append(door.accept()[0])
    assert tcp_peers(os.getpid()) == {"127.0.0.1", "::1"}
    for one in kept:
        one.close()
    assert tcp_peers(os.getpid()) == set()


def test_an_ipv4_address_in_ipv6_is_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket(socket.AF_INET6) as one:
        one.connect(("::ffff:127.0.0.1", door.getsockname()[1]))
        assert tcp_peers(os.getpid()) == {"127.0.0.1"}


def test_of_a_process_that_has_gone_nothing_is_known() -> None:
    assert tcp_peers(2**22 + 1) == set()
