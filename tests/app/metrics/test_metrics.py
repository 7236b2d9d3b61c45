"""What Prometheus gets of a host, and from where."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cardferry.app.agent.serving import Serving, open_set, serving
from cardferry.app.hosts.connect import Way
from cardferry.app.metrics.endpoint import DEFAULT, metrics_at
from cardferry.app.runtime.request import Request
from cardferry.app.web.address import WebError
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.policy.guard import HostGuard
from cardferry.policy.rulebook import Rulebook
from cardferry.transports.errors import AddressSyntaxError
from tests.callers import TESTER, somebody

HERE = Path(__file__).parents[3]


def elsewhere(_request: Request) -> AbstractAsyncContextManager[Serving]:
    raise AssertionError("nobody else wants anything")


@asynccontextmanager
async def host(workdir: Path) -> AsyncIterator[Serving]:
    guard = HostGuard(Rulebook(lambda: None, "tester"))
    async with (
        open_set("virtual:", Way(workdir), guard=guard) as served,
        serving(served, Request("virtual:"), tells=False) as opened,
    ):
        yield opened


async def ask(port: int, path: str = "/metrics", name: str = "localhost", method: str = "GET") -> tuple[str, str]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head.partition("\r\n")[0].partition(" ")[2], body


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_what_is_done_with_a_card_is_told(tmp_path: Path) -> None:
    port = free_port()
    async with host(tmp_path) as opened, metrics_at(f"127.0.0.1:{port}")(opened, elsewhere):
        (reader,) = opened.host.manager.snapshot.readers
        context = await opened.host.manager.open(somebody("alice", 1000, 1), 10)
        card = await context.connect(reader.name, ShareMode.SHARED, Protocol.ANY)
        before = opened.served.manager.counts.of(reader.name).of(TESTER).commands
        await card.begin()
        for _ in range(3):
            await card.transmit(bytes.fromhex("00a4040000"), card.protocol)
        await card.end(Disposition.LEAVE)
        opened.served.guard.counts.of(reader.name).of(str(TESTER)).denials += 2  # type: ignore[union-attr]
        status, body = await ask(port)
        assert status == "200 OK"
        told = {
            (
                sample.name,
                *(sample.labels[label] for label in ("reader", "principal") if label in sample.labels),
            ): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }
        mine = reader.name, str(TESTER)
        assert told["cardferry_commands_total", *mine] == before + 3
        assert told["cardferry_card_seconds_total", *mine] > 0
        assert told["cardferry_turns_total", *mine] >= 1
        assert told["cardferry_denials_total", *mine] == 2
        assert told["cardferry_card_present", reader.name] == 1
        assert told["cardferry_waiting", reader.name] == 0
        assert told["cardferry_links_connected",] == 0
        await context.close()


async def test_only_the_metrics_and_only_by_a_name_of_this_computer(tmp_path: Path) -> None:
    port = free_port()
    async with host(tmp_path) as opened, metrics_at(f"127.0.0.1:{port}")(opened, elsewhere):
        assert (await ask(port, "/"))[0] == "404 Not Found"
        assert (await ask(port, method="PUT"))[0] == "403 Forbidden"
        assert (await ask(port, name="evil.example:7766"))[0] == "403 Forbidden"
        assert (await ask(port, name=f"127.0.0.1:{port}"))[0] == "200 OK"
        assert (await ask(port, name="[::1]:1"))[0] == "200 OK"
        with pytest.raises(WebError, match="in use"):
            async with metrics_at(f"127.0.0.1:{port}")(opened, elsewhere):
                pass


@pytest.mark.parametrize("text", ["0.0.0.0:7766", "192.0.2.1:7766", "[::]:7766"])
def test_other_computers_do_not_get_them(text: str) -> None:
    with pytest.raises(WebError, match=r"--metrics .*: nothing encrypts them"):
        metrics_at(text)


def test_what_is_no_address_has_one_in_its_hint() -> None:
    with pytest.raises(AddressSyntaxError, match="--metrics localhost: that is no ADDRESS:PORT") as raised:
        metrics_at("localhost")
    assert raised.value.hint == f"write --metrics {DEFAULT}"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prometheus_client" else object())
    with pytest.raises(WebError, match="prometheus_client") as raised:
        metrics_at(DEFAULT)
    assert "cardferry[server]" in raised.value.hint


def test_a_plain_host_loads_none_of_it() -> None:
    code = (
        "import sys, cardferry.cli.host, cardferry.app.agent.server, cardferry.app.metrics.endpoint\n"
        "print([name for name in ('prometheus_client', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
