"""The page at an address that other computers reach: who has a certificate, and a name that was told, sees it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from cardferry.app.agent.server import AgentSettings
from cardferry.app.hosts.sources import VirtualHost
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.service import Service
from cardferry.app.web import http
from cardferry.app.web.address import WebAddress, WebError
from cardferry.app.web.opening import check_page, page_at
from cardferry.app.web.server import WebPage
from cardferry.app.web.viewers import Viewers
from cardferry.policy.guard import HostGuard
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.door import HostDoor, PkiDoor
from cardferry.transports.tls.host import own_host
from cardferry.transports.tls.identity import Pki
from tests.app.agent.at_work import agent
from tests.app.handoffs import PATIENCE
from tests.transports.tls.tls_lab import Infrastructure


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    for name in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def joined(folder: Path, name: str) -> ssl.SSLContext:
    """The browser of somebody who has joined this host."""
    host, key = own_host(), c.new_key()
    secret = host.guests.invite(name, 60.0, 3600.0)
    assert host.guests.join(secret, c.key_fingerprint(key.public_key()), "127.0.0.1", "a test") is not None
    made = host.authority().issue(name, key.public_key(), timedelta(hours=1), host=False)
    return browser_with(folder, name, key, made, host.authority().certificate)


def browser_with(
    folder: Path, name: str, key: c.Key, certificate: x509.Certificate, authority: x509.Certificate
) -> ssl.SSLContext:
    pem = folder / f"{name}.pem"
    pem.write_bytes(c.key_pem(key) + c.certificate_pem(certificate))
    made = stranger(authority)
    made.load_cert_chain(pem)
    return made


def stranger(authority: x509.Certificate) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=c.certificate_pem(authority).decode())
    made.check_hostname = False  # it is asked for by its address
    return made


@asynccontextmanager
async def served(page: WebPage) -> AsyncIterator[None]:
    async with agent(AgentSettings(VirtualHost(), Service(), page=page.serve)):
        yield


def page_for(*names: str) -> WebPage:
    return WebPage(WebAddress("127.0.0.1", 0), viewers=Viewers(HostDoor(own_host()), names))


def client(page: WebPage, tls: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://{page.address}", verify=tls)


async def post(browser: httpx.AsyncClient, path: str, token: str, **fields: str) -> httpx.Response:
    origin = {"Origin": str(browser.base_url).rstrip("/")}
    return await browser.post(path, data={"token": token} | fields, headers=origin)


async def test_who_is_named_sees_it_and_may_act(folder: Path) -> None:
    page = page_for("tls:anna")
    async with served(page), client(page, joined(folder, "anna")) as browser:
        shown = await browser.get("/")
        assert shown.status_code == 200
        assert "tls:anna" in shown.text
        assert "Sign out" not in shown.text
        assert "set-cookie" not in shown.headers
        found = re.search(r'name="token" value="([^"]+)"', shown.text)
        assert found is not None
        assert (await post(browser, "/invite", "x", name="build1")).status_code == 403
        assert "cardferry join" in (await post(browser, "/invite", found[1], name="build1")).text
        foreign = {"Origin": "https://evil.example"}
        answer = await browser.post("/guests/remove", data={"token": found[1], "guest": "build1"}, headers=foreign)
        assert answer.status_code == 403
        assert not (runtime_folder() / "web-link").exists()


async def test_a_guest_that_is_not_named_sees_nothing(folder: Path) -> None:
    page = page_for("tls:anna")
    async with served(page), client(page, joined(folder, "build1")) as browser:
        shown = await browser.get("/")
        assert shown.status_code == 403
        assert "Not for you" in shown.text
        assert "token" not in shown.text
        assert (await browser.get("/events")).status_code == 401
        assert (await post(browser, "/invite", "", name="build2")).status_code == 403
        assert (await browser.get("/sign-in?secret=")).status_code == 403


async def test_without_a_certificate_there_is_no_answer(folder: Path) -> None:
    page = page_for("tls:anna")
    other = c.Authority.new("other")
    key = c.new_key()
    foreign = browser_with(
        folder, "anna", key, other.issue("anna", key.public_key(), timedelta(hours=1), host=False),
        own_host().authority().certificate,
    )  # fmt: skip
    async with served(page):
        for tls in (stranger(own_host().authority().certificate), foreign):
            async with client(page, tls) as browser:
                with pytest.raises(httpx.TransportError):
                    await browser.get("/")
        async with client(page, joined(folder, "anna")) as browser:
            assert (await browser.get("/")).status_code == 200


async def test_those_who_connect_and_prove_nothing_keep_nobody_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MOST_SILENT", 5)
    page = page_for("tls:anna")
    async with served(page), client(page, joined(folder, "anna")) as browser:
        silent = [await asyncio.open_connection(page.address.host, page.address.port) for _ in range(30)]
        async with asyncio.timeout(PATIENCE):
            for reader, _ in silent[:25]:
                with suppress(ConnectionError):
                    assert await reader.read(1) == b""
        assert (await browser.get("/")).status_code == 200
        for _, writer in silent:
            writer.close()


async def test_a_certificate_that_expires_while_it_is_used_is_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls.fromtimestamp(datetime.now(tz).timestamp() + 7200, tz)

    page = page_for("tls:anna")
    async with served(page), client(page, joined(folder, "anna")) as browser:
        assert (await browser.get("/")).status_code == 200
        monkeypatch.setattr("cardferry.app.web.viewers.datetime", Later)
        assert (await browser.get("/")).status_code == 403


async def test_who_is_removed_sees_no_more_at_once(folder: Path) -> None:
    page = page_for("tls:anna")
    async with served(page), client(page, joined(folder, "anna")) as browser:
        async with asyncio.timeout(PATIENCE), browser.stream("GET", "/events") as stream:
            pieces = stream.aiter_text()
            assert "event: readers" in await anext(pieces)
            own_host().guests.remove("anna")
            async for _ in pieces:
                pass
        assert (await browser.get("/")).status_code == 403


async def test_a_certificate_of_ones_own_infrastructure(folder: Path) -> None:
    theirs = Infrastructure(folder)
    pki = Pki(*map(Path, theirs.files("host", x509.DNSName("host"), server=True)))
    page = WebPage(WebAddress("127.0.0.1", 0), viewers=Viewers(PkiDoor(pki), ["tls:spiffe://example.org/anna"]))
    async with served(page):
        for name, status in (("anna", 200), ("otto", 403)):
            uri = x509.UniformResourceIdentifier(f"spiffe://example.org/{name}")
            tls = stranger(theirs.authority.certificate)
            tls.load_cert_chain(*theirs.files(name, uri)[1:])
            async with client(page, tls) as browser:
                assert (await browser.get("/")).status_code == status


@pytest.mark.parametrize(
    ("text", "viewers", "says"),
    [
        ("0.0.0.0:7765", [], "does not say who may see it"),
        ("192.0.2.1:7765", [], "does not say who may see it"),
        ("[::]:7765", ["anna"], "no principal of TLS"),
        ("127.0.0.1:7765", ["tls:anna"], "a link signs in"),
    ],
)
def test_what_does_not_go_together(text: str, viewers: list[str], says: str) -> None:
    with pytest.raises(WebError, match=says) as raised:
        page_at(text, HostGuard.__new__(HostGuard), viewers)
    assert "--web" in raised.value.hint


def test_viewers_without_a_page_are_refused() -> None:
    with pytest.raises(WebError, match="there is no page without --web") as raised:
        check_page(None, ["tls:anna"])
    assert "--web ADDRESS:PORT" in raised.value.hint
    check_page("0.0.0.0:7765", ["tls:anna"])
    check_page(None)
