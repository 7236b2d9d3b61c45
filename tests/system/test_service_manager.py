"""What a service tells systemd, as systemd hears it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cardferry.system.service_manager import ServiceManager


def test_it_is_told_in_lines_and_what_it_has_left_is_for_this_process_only(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        environ = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": "1",
            "A": "b",
        }
        manager = ServiceManager(environ)
        assert environ == {"A": "b"}
        assert (manager.there, manager.watchdog) == (True, 0), "the watchdog is another process's"
        manager.tell(READY="1", STATUS="two\nlines")
        assert heard.recv(99) == b"READY=1\nSTATUS=two lines\n"


def test_an_abstract_socket_and_a_watchdog() -> None:
    name = f"cardferry-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        manager = ServiceManager(
            {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}
        )
        assert manager.watchdog == 1.5
        manager.tell(WATCHDOG="1")
        assert heard.recv(99) == b"WATCHDOG=1\n"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_where_nobody_listens_nothing_happens(environ: dict[str, str]) -> None:
    manager = ServiceManager(environ)
    manager.tell(READY="1")
    assert manager.watchdog == 0
