"""What can be asked for, by whom: each answer has the policy, and nothing changes without cookie, token and origin."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from cardferry.app.commands import guests as tls_guests
from cardferry.app.web import view
from cardferry.app.web.checks import POLICY
from cardferry.app.web.live import Live, Sections
from cardferry.app.web.questions import PageQuestions
from cardferry.app.web.routes import Routes
from cardferry.app.web.signing_in import SigningIn
from cardferry.transports.tls.errors import InvitationError
from tests.app.web.seen import guest, seen, slot

BASE = "http://127.0.0.1:7765"
ACTIONS = ("/sign-out", "/questions/1", "/invite", "/guests/remove")


class Web:
    """The page without an agent, and a browser.

    Attributes:
        done: what was done: invitations, removals, answers.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.links: list[str] = []
        self.done: list[tuple[str, ...]] = []
        self.broken = False
        self.signing_in = SigningIn(self.links.append)
        self.signing_in.offer()
        self.questions = PageQuestions()
        monkeypatch.setattr(self.questions, "answer", self._answer)
        monkeypatch.setattr(tls_guests, "invite", self._invite)
        monkeypatch.setattr(tls_guests, "remove", self._remove)
        routes = Routes(self.signing_in, Live(self._look), self.questions, "cardferry-7765")
        transport = httpx.ASGITransport(routes.app, raise_app_exceptions=False)
        self.browser = httpx.AsyncClient(transport=transport, base_url=BASE)

    async def _look(self) -> Sections:
        if self.broken:
            raise ZeroDivisionError
        return view.sections(seen(slot(), guests=(guest(),)))

    def _answer(self, number: int, word: str) -> bool:
        self.done.append(("answer", str(number), word))
        return number == 1

    def _invite(self, name: str, seconds: float, life: float, address: str | None) -> tuple[str, list[str]]:
        if name == "no name":
            raise InvitationError("not a name", "use letters")
        self.done.append(("invite", name, f"{seconds:g}", address or ""))
        return "cardferry-invitation", ["good once"]

    def _remove(self, name: str) -> None:
        self.done.append(("remove", name))

    async def sign_in(self) -> str:
        """Open the link; the token of the page."""
        assert (await self.browser.get(f"/sign-in?secret={self.links[-1]}")).status_code == 200
        return await self.token()

    async def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', (await self.browser.get("/")).text)
        assert found is not None
        return found[1]

    async def post(self, path: str, origin: str | None = BASE, **fields: str) -> httpx.Response:
        headers = {} if origin is None else {"Origin": origin}
        return await self.browser.post(path, data=fields, headers=headers)


@pytest.fixture
async def web(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    made = Web(monkeypatch)
    async with made.browser:
        yield made


# --- signing in


async def test_a_link_is_good_once(web: Web) -> None:
    link = web.links[-1]
    assert (await web.browser.get("/")).status_code == 401
    first = await web.browser.get(f"/sign-in?secret={link}")
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie
    assert (await web.browser.get("/")).status_code == 200
    web.browser.cookies.clear()
    again = await web.browser.get(f"/sign-in?secret={link}")
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    assert (await web.browser.get("/")).status_code == 401


@pytest.mark.parametrize("secret", ["", "x", "%00", "%ff", "a" * 5000])
async def test_a_wrong_link(web: Web, secret: str) -> None:
    answer = await web.browser.get(f"/sign-in?secret={secret}")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    await web.sign_in()
    assert "were not good: 1" in (await web.browser.get("/")).text


async def test_who_only_looks_at_a_link_does_not_use_it_up(web: Web) -> None:
    assert (await web.browser.head(f"/sign-in?secret={web.links[-1]}")).status_code == 405
    assert (await web.browser.get(f"/sign-in?secret={web.links[-1]}")).status_code == 200


async def test_signed_out_is_signed_out(web: Web) -> None:
    token = await web.sign_in()
    cookies = dict(web.browser.cookies)
    assert (await web.post("/sign-out", token=token)).status_code == 200
    web.browser.cookies.update(cookies)
    assert (await web.browser.get("/")).status_code == 401
    assert (await web.browser.get("/events")).status_code == 401


async def test_without_signing_in_there_is_nothing_to_see(web: Web) -> None:
    for path in ("/", "/events"):
        answer = await web.browser.get(path)
        assert answer.status_code == 401
        assert "Reader 00 00" not in answer.text
    web.browser.cookies.set("cardferry-7765", "guessed")
    assert (await web.browser.get("/")).status_code == 401


# --- every answer


async def test_each_answer_has_the_policy(web: Web) -> None:
    paths = (
        "/",
        "/sign-in",
        "/events",
        "/static/page.js",
        "/static/page.css",
        "/static/x",
        "/nothing",
        "/invite",
    )
    answers = [await web.browser.get(path) for path in paths]
    token = await web.sign_in()
    answers.append(await web.browser.get("/"))
    answers += [await web.post(path, token=token) for path in ACTIONS]
    answers += [await web.browser.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        assert answer.headers.get_list("content-security-policy") == [POLICY], answer.url
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


async def test_pages_have_no_inline_script_or_style_and_nothing_of_others(web: Web) -> None:
    token = await web.sign_in()
    pages = [await web.browser.get("/"), await web.post("/invite", token=token, name="build1")]
    for page in pages:
        for inline in re.findall(r"<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:", page.text):
            pytest.fail(inline)
        assert all(url.startswith(("/", "#")) for url in re.findall(r'(?:src|href|action)="([^"]*)"', page.text))


async def test_tables_are_there_without_javascript(web: Web) -> None:
    await web.sign_in()
    text = (await web.browser.get("/")).text
    for words in ("Reader 00 00", "ssh:build1", "gpg 1", "12.3 ms", "Nobody has joined"):
        assert words in text


@pytest.mark.parametrize(
    "path", ["/static/../routes.py", "/static/%2e%2e/routes.py", "/static//etc/passwd", "/static/"]
)
async def test_files_are_those_of_the_page(web: Web, path: str) -> None:
    assert (await web.browser.get(f"/static/{path}")).status_code == 404


async def test_a_bug_ends_one_request_and_is_logged(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    await web.browser.get(f"/sign-in?secret={web.links[-1]}")
    web.broken = True
    answer = await web.browser.get("/")
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert "a bug behind the page, at /" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert (await web.browser.get("/static/page.js")).status_code == 200


# --- names and origins


@pytest.mark.parametrize("host", ["127.0.0.1:7765", "localhost:1", "LOCALHOST", "127.1.2.3:80", "[::1]:7765"])
async def test_names_of_this_computers_loopback(web: Web, host: str) -> None:
    assert (await web.browser.get("/", headers={"Host": host})).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7765", "localhost.evil.example", "192.0.2.1:7765", "", "[::2]:1"]
)
async def test_a_name_that_somebody_has_made_lead_here_is_refused(web: Web, host: str) -> None:
    await web.sign_in()
    for path in ("/", "/events", "/static/page.js"):
        answer = await web.browser.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "Reader 00 00" not in answer.text


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:7765"]
)
@pytest.mark.parametrize("path", ACTIONS)
async def test_nothing_changes_for_pages_of_others(web: Web, path: str, origin: str | None) -> None:
    token = await web.sign_in()
    fields = {"token": token, "name": "x", "guest": "x", "answer": "allow"}
    assert (await web.post(path, origin, **fields)).status_code == 403
    assert web.done == []
    assert (await web.browser.get("/")).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
async def test_nothing_changes_when_the_browser_says_that_it_is_another_site(web: Web, site: str) -> None:
    token = await web.sign_in()
    headers = {"Origin": BASE, "Sec-Fetch-Site": site}
    answer = await web.browser.post("/guests/remove", data={"token": token, "guest": "x"}, headers=headers)
    assert answer.status_code == 403
    assert web.done == []


@pytest.mark.parametrize("path", ACTIONS)
async def test_nothing_changes_without_the_token(web: Web, path: str) -> None:
    token = await web.sign_in()
    for wrong in ("", "x", token[:-1]):
        answer = await web.post(path, token=wrong, name="x", guest="x", answer="allow")
        assert answer.status_code == 403
    assert web.done == []
    assert (await web.browser.get("/")).status_code == 200


@pytest.mark.parametrize("path", ACTIONS)
async def test_nothing_changes_without_the_cookie(web: Web, path: str) -> None:
    token = await web.sign_in()
    web.browser.cookies.clear()
    answer = await web.post(path, token=token, name="x", guest="x", answer="allow")
    assert answer.status_code == 401
    assert web.done == []


@pytest.mark.parametrize("path", ACTIONS)
async def test_nothing_changes_by_looking(web: Web, path: str) -> None:
    token = await web.sign_in()
    answer = await web.browser.get(path, params={"token": token, "name": "x", "guest": "x", "answer": "allow"})
    assert answer.status_code == 405
    assert web.done == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x" * 5000, "application/x-www-form-urlencoded", 413),
        (b"&".join([b"a=b"] * 17), "application/x-www-form-urlencoded", 400),
        (b"\xff=\xfe", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 415),
        (b"token=x", "text/plain", 415),
        (b"", "", 415),
    ],
)
async def test_what_is_no_form_of_ours(web: Web, content: bytes, kind: str, status: int) -> None:
    await web.sign_in()
    headers = {"Origin": BASE} | ({"Content-Type": kind} if kind else {})
    answer = await web.browser.post("/invite", content=content, headers=headers)
    assert answer.status_code == status
    assert web.done == []


# --- what is done


async def test_a_guest_is_invited_and_its_line_is_shown_once(web: Web) -> None:
    token = await web.sign_in()
    answer = await web.post("/invite", token=token, name="build1", minutes="30", address="10.0.0.1")
    assert "cardferry join cardferry-invitation" in answer.text
    assert web.done == [("invite", "build1", "1800", "10.0.0.1")]
    assert "cardferry-invitation" not in (await web.browser.get("/")).text


@pytest.mark.parametrize(("name", "minutes"), [("no name", "15"), ("x", "0"), ("x", "-1"), ("x", "x"), ("x", "99999")])
async def test_what_is_no_invitation_is_said(web: Web, name: str, minutes: str) -> None:
    token = await web.sign_in()
    assert (await web.post("/invite", token=token, name=name, minutes=minutes)).status_code == 409
    assert web.done == []


async def test_a_guest_is_removed(web: Web) -> None:
    token = await web.sign_in()
    answer = await web.post("/guests/remove", token=token, guest="build1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/#joined")
    assert web.done == [("remove", "build1")]


async def test_a_question_is_answered_and_one_that_is_over_says_so(web: Web) -> None:
    token = await web.sign_in()
    assert (await web.post("/questions/1", token=token, answer="allow")).status_code == 303
    assert (await web.post("/questions/2", token=token, answer="deny")).status_code == 409
    assert (await web.post("/questions/x", token=token, answer="deny")).status_code == 404
    assert web.done == [("answer", "1", "allow"), ("answer", "2", "deny")]
