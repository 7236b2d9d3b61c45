"""What Prometheus gets of a host, and from where."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cardferry.app.agent.serving import Serving, open_set, serving
from cardferry.app.hosts.connect import Way
from cardferry.app.metrics.endpoint import Endpoint, MetricsError, metrics_at, parse_address
from cardferry.app.runtime.request import Request
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.policy.guard import HostGuard
from cardferry.policy.rulebook import Rulebook
from tests.callers import TESTER, somebody

HERE = Path(__file__).parents[3]


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
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
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
    async with host(tmp_path) as opened, metrics_at(f"127.0.0.1:{port}")(opened):
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
    async with host(tmp_path) as opened, metrics_at(f"127.0.0.1:{port}")(opened):
        assert (await ask(port, "/"))[0] == "404 Not Found"
        assert (await ask(port, method="POST"))[0] == "405 Method Not Allowed"
        assert (await ask(port, name="evil.example:7766"))[0] == "400 Bad Request"
        assert (await ask(port, name=f"127.0.0.1:{port}"))[0] == "200 OK"
        assert (await ask(port, name="[::1]:1"))[0] == "200 OK"
        with pytest.raises(MetricsError, match="in use"):
            async with metrics_at(f"127.0.0.1:{port}")(opened):
                pass


async def test_garbage_and_silence_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardferry.app.metrics.endpoint._PATIENCE", 0.05)
    server = await asyncio.start_server(Endpoint("text/plain", lambda: b"x").answer, "127.0.0.1", 0, limit=8192)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(10):
        for words in (b"", b"\x00" * 20000, b"GET"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(words)
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert (await ask(port))[0] == "200 OK"


@pytest.mark.parametrize("text", ["0.0.0.0:7766", "192.0.2.1:7766", "[::]:7766", "host.example:7766"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(MetricsError, match="an address of this computer only"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "localhost", "localhost:x", "localhost:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MetricsError, match="no ADDRESS:PORT") as raised:
        parse_address(text)
    assert parse_address(raised.value.hint.removeprefix("write --metrics ")) == ("127.0.0.1", 7766)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MetricsError, match="not installed") as raised:
        metrics_at("127.0.0.1:7766")
    assert "cardferry[server]" in raised.value.hint


def test_a_plain_host_loads_none_of_it() -> None:
    code = "import sys, cardferry.cli.host, cardferry.app.agent.server; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
