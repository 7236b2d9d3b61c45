"""The page of an agent at work, over its socket: what comes by itself, consent, bad input, and the end."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cardferry.app.agent.server import AgentSettings
from cardferry.app.hosts.sources import VirtualHost
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.service import Service
from cardferry.app.web import http
from cardferry.app.web.address import WebAddress
from cardferry.app.web.server import WebPage
from cardferry.link import Guest
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.interface import Card
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard import HostGuard
from cardferry.policy.rulebook import Rulebook
from cardferry.system.peers import user_name
from tests.app.agent.at_work import BUILD1, Agent, agent, use
from tests.app.handoffs import PATIENCE
from tests.callers import somebody
from tests.policy.guard.guarded_host import DENIED, OK, SELECT, SIGN_9C, verify

RULES = """\
audit-file = "{folder}/audit.jsonl"
[[allow]]
who = "ssh:build1"
may = ["read", "verify", "sign:9C"]
ask = "always"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    for name in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


class Browser:
    """Somebody who has signed in."""

    def __init__(self, client: httpx.AsyncClient, page: WebPage) -> None:
        self.client = client
        self.page = page

    async def sign_in(self) -> None:
        assert (await self.client.get(self.page.link_file.read_text().strip())).status_code == 200

    async def post(self, path: str, **fields: str) -> httpx.Response:
        found = re.search(r'name="token" value="([^"]+)"', (await self.client.get("/")).text)
        assert found is not None
        origin = {"Origin": f"http://{self.page.address}"}
        return await self.client.post(path, data={"token": found[1]} | fields, headers=origin)

    async def until(self, pattern: str) -> re.Match[str]:
        """Watch until the stream says that."""
        text = ""
        async with asyncio.timeout(PATIENCE), self.client.stream("GET", "/events") as stream:
            async for piece in stream.aiter_text():
                text += piece
                if (found := re.search(pattern, text)) is not None:
                    return found
        raise AssertionError(text)


@asynccontextmanager
async def served(page: WebPage, guard: HostGuard | None = None) -> AsyncIterator[tuple[Agent, Browser]]:
    settings = AgentSettings(VirtualHost(), Service(guard=guard), page=page.serve)
    async with agent(settings) as running, httpx.AsyncClient(base_url=f"http://{page.address}") as client:
        yield running, Browser(client, page)


def free() -> WebAddress:
    return WebAddress("127.0.0.1", 0)


async def test_a_guest_comes_by_itself_and_goes() -> None:
    async with served(WebPage(free())) as (running, browser):
        await browser.sign_in()
        assert "No guest is linked" in (await browser.client.get("/")).text

        async def come() -> None:
            await use(await running.guest(BUILD1))

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(browser.until(r"event: guests\ndata: .*\n(data: .*\n)*.*ssh:build1"))
            tasks.create_task(come())
        assert "build1 at 10.0.0.9" in (await browser.client.get("/")).text
        assert watching.result()


def guarded(folder: Path) -> HostGuard:
    path = folder / "cardferry.toml"
    path.write_text(RULES.format(folder=folder))
    rulebook = Rulebook(lambda: path, user_name(os.getuid()))
    return HostGuard(rulebook, AuditLog(folder / "audit.jsonl"))


async def program(guest: Guest) -> Card:
    context = await guest.open(somebody("gpg", 4711, 1000))
    card = await context.connect(guest.snapshot.readers[0].name, ShareMode.SHARED, Protocol.ANY)
    await card.begin()
    assert await card.transmit(SELECT, Protocol.T1)
    assert await card.transmit(verify(), Protocol.T1) == OK
    return card


@pytest.mark.parametrize(("word", "end"), [("allow", OK), ("deny", DENIED)])
async def test_consent_with_a_button_and_the_audit_has_it(folder: Path, word: str, end: bytes) -> None:
    guard = guarded(folder)
    async with served(WebPage(free(), guard), guard) as (running, browser):
        await browser.sign_in()
        guest = await running.guest(BUILD1)
        card = await program(guest)
        assert "You are asked for yes or no: the web page" in (await browser.client.get("/")).text
        async with browser.client.stream("GET", "/events"):
            signing = card.transmit(SIGN_9C, Protocol.T1)
            found = await browser.until(r'formaction="/questions/(\d+)" name="answer" value="allow"')
            assert "sign with PIV 9C" in (await browser.client.get("/")).text
            assert not signing.done()
            assert (await browser.post(f"/questions/{found[1]}", answer=word)).status_code == 303
            assert (await signing)[-2:] == end
            assert (await browser.post(f"/questions/{found[1]}", answer="allow")).status_code == 409
        await browser.until(r"event: audit\n(data: .*\n)*data: .*(signed with PIV 9C|denied)")


async def test_its_end_ends_streams_and_takes_the_link_along(folder: Path) -> None:
    page = WebPage(free())
    async with served(page) as (_, browser):
        await browser.sign_in()
        assert page.link_file.stat().st_mode & 0o777 == 0o600
        stream = await browser.client.send(browser.client.build_request("GET", "/events"), stream=True)
        pieces = stream.aiter_text()
        assert "event: readers" in await anext(pieces)
        link = page.link_file
    with suppress(httpx.HTTPError):
        async for _ in pieces:
            pass
    assert not link.exists()
    with pytest.raises(OSError):  # noqa: PT011 - refused
        socket.create_connection((page.address.host, page.address.port)).close()


async def test_a_port_that_is_taken_is_told_to_who_has_started_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError) as told:
        async with served(WebPage(WebAddress("127.0.0.1", taken.getsockname()[1]))):
            pass
    assert told.value.exit_code == 13
    assert "--web 127.0.0.1:" in told.value.message


async def test_those_who_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_SILENT", 5)
    async with served(WebPage(free())) as (_, browser):
        where = browser.page.address.host, browser.page.address.port
        silent = [await asyncio.open_connection(*where) for _ in range(30)]
        async with asyncio.timeout(PATIENCE):
            assert [await reader.read(1) for reader, _ in silent[:25]] == [b""] * 25
        await browser.sign_in()
        assert (await browser.client.get("/")).status_code == 200
        for _, writer in silent:
            writer.close()


async def test_those_who_say_nothing_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SILENT", 0.05)
    async with served(WebPage(free())) as (_, browser):
        for said in (b"", b"GET / HT"):
            reader, writer = await asyncio.open_connection(browser.page.address.host, browser.page.address.port)
            writer.write(said)
            async with asyncio.timeout(PATIENCE):
                assert await reader.read() == b""
            writer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000,
        b"POST /invite HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
        b"BREW / HTTP/9.9\r\n\r\n",
    ],
)
async def test_garbage_is_its_own_affair(said: bytes) -> None:
    async with served(WebPage(free())) as (_, browser):
        await browser.sign_in()
        reader, writer = await asyncio.open_connection(browser.page.address.host, browser.page.address.port)
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read(1000)
        assert re.match(rb"HTTP/1.1 40[0-9] |HTTP/1.1 403|$", answer)
        writer.close()
        assert (await browser.client.get("/")).status_code == 200


async def test_there_are_not_more_viewers_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardferry.app.web.live.MOST", 2)
    async with served(WebPage(free())) as (_, browser):
        await browser.sign_in()
        streams = [
            await browser.client.send(browser.client.build_request("GET", "/events"), stream=True) for _ in "123"
        ]
        assert [one.status_code for one in streams[:2]] == [200, 200]
        for one in streams[:2]:
            await anext(one.aiter_text())
        last = await browser.client.get("/events")
        assert last.status_code == 503
        for one in streams:
            await one.aclose()


async def test_who_has_gone_is_no_viewer_any_more() -> None:
    page = WebPage(free())
    async with served(page) as (_, browser):
        await browser.sign_in()
        await browser.until("event: readers")
        async with asyncio.timeout(PATIENCE):
            while page.live.viewers:
                assert (await browser.client.get("/")).status_code == 200


async def test_the_link_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    page = WebPage(free())
    async with served(page) as (_, browser):
        secret = page.link_file.read_text().strip().partition("secret=")[2]
        await browser.sign_in()
        assert f"the link to sign in is in {runtime_folder() / 'web-link'}" in caplog.text
        assert secret not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("cardferry"))


async def test_tls_guests_are_invited_and_removed(folder: Path) -> None:
    async with served(WebPage(free())) as (_, browser):
        await browser.sign_in()
        answer = await browser.post("/invite", name="build1", minutes="15")
        assert re.search(r"cardferry join \S+", answer.text), answer.text
        assert "tls:build1" in (await browser.until(r"event: joined\n(data: .*\n)*data: .*tls:build1"))[0]
        assert (await browser.post("/guests/remove", guest="build1")).status_code == 303
        await browser.until(r"event: joined\n(data: .*\n)*data: .*Nobody has joined")
        assert (await browser.post("/guests/remove", guest="build1")).status_code == 409
