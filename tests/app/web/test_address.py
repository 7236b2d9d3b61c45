from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys

import pytest

from cardferry.app.web.address import WebAddress, WebError
from cardferry.app.web.opening import page_at
from cardferry.pcsc.errors import UserError
from cardferry.policy.guard import HostGuard
from cardferry.transports.errors import AddressSyntaxError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7765", "127.0.0.1", 7765), ("localhost:0", "127.0.0.1", 0), ("[::1]:80", "::1", 80)],
)
def test_addresses_of_this_computer(text: str, host: str, port: int) -> None:
    assert WebAddress.parse(text) == WebAddress(host, port)


@pytest.mark.parametrize("text", ["", "7765", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "a.example:80", "::1:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressSyntaxError):
        WebAddress.parse(text)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(WebError) as raised:
        WebAddress("127.0.0.1", taken.getsockname()[1]).listen()
    assert raised.value.exit_code == 13


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(UserError) as raised:
        page_at("127.0.0.1:0", HostGuard.__new__(HostGuard))
    assert "uvicorn" in raised.value.message
    assert "cardferry[server]" in raised.value.hint


def test_a_host_without_a_page_loads_nothing_of_it() -> None:
    code = "import sys, cardferry, cardferry.cli.host, cardferry.app.agent.server, cardferry.app.web.opening\n"
    code += "print([name for name in ('starlette', 'uvicorn', 'jinja2', 'h11') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
