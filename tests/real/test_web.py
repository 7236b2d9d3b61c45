"""The page of `cardferry host --web` in Debian's Chromium, while a guest signs; its pictures are those of the docs."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.chromium import Chromium
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, REPOSITORY
from tests.lab.ferry import Ferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, Running, wait_until

_RULES = """\
audit-file = "{audit}"
[[allow]]
who = "tls:*"
may = ["read", "verify", "sign:9C"]
ask = "first"
"""
_PICTURES = REPOSITORY / "docs" / "images"


class Web:
    """A host with a card and a page, and a guest.

    Attributes:
        agent: `cardferry host`.
        link: to sign in.
    """

    def __init__(self, lab: Lab) -> None:
        self.host, self.guest = lab.computer("host"), lab.computer("build1")
        self.card = piv_card(Pcscd(self.host))
        rules = self.host.home / "rules.toml"
        rules.write_text(_RULES.format(audit=self.host.home / "audit.jsonl"))
        rules.chmod(0o600)
        words = ["host", "--listen", "tls::7764", "--web", "--config", str(rules)]
        self.agent: Running = self.host.popen([CARDFERRY, *words])
        self.agent.wait_for("the link to sign in is in (.*)", stream="err", timeout=30)
        self._file = self.host.outside(self.host.runtime / "cardferry" / "web-link")

    @property
    def link(self) -> str:
        return self._file.read_text().strip()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Lab() as lab:
        yield Web(lab)


@pytest.fixture
def browser(web: Web) -> Iterator[Chromium]:
    with Chromium(web.host) as browser:
        browser.screen(1280, 1000)
        browser.open(web.link)
        browser.wait_for("live", "#state")
        yield browser
        assert browser.complaints == []


def picture(browser: Chromium, name: str, config: pytest.Config) -> None:
    """Take a picture of the page, for the documents if somebody wants that."""
    found = browser.picture()
    assert found.startswith(b"\x89PNG")
    if config.getoption("--write-pictures"):
        (_PICTURES / name).write_bytes(found)


def sign(guest: Computer, ferry: Ferry, done: list[Result]) -> threading.Thread:
    """Sign with pkcs11-tool, beside the test."""
    words = "pkcs11-tool --login --sign --id 02 -m ECDSA-SHA256 -i /etc/hostname -o /dev/null --pin"
    command = [*shlex.split(words), PIV_PIN]
    thread = threading.Thread(target=lambda: done.append(guest.run(command, ferry.env)))
    thread.start()
    return thread


def test_a_guest_is_invited_works_waits_is_asked_about_and_is_removed(
    web: Web, browser: Chromium, pytestconfig: pytest.Config
) -> None:
    host, guest = web.host, web.guest
    browser.wait_for("No guest is linked", "#guests")
    browser.click(".invite summary")
    browser.fill("input[name=name]", "build1")
    browser.fill("input[name=address]", host.address)
    browser.click(".invite button")
    line = browser.wait_for("cardferry join", "pre").strip()
    guest.run([CARDFERRY, *shlex.split(line)[1:]]).check()
    browser.click(".message a")
    browser.wait_for("live", "#state")
    browser.wait_for("tls:build1", "#joined")

    ferry = Ferry(guest, ["attach", host.address])
    browser.wait_for("tls:build1", "#guests")
    assert "up" in browser.text("#guests")
    assert "PIV" in browser.text("#readers")

    done: list[Result] = []
    signing = sign(guest, ferry, done)
    browser.screen(390, 844, dark=True, phone=True)
    browser.wait_for("May the card be used?", "#questions")
    browser.wait_for("sign with PIV 9C", "#questions")
    wait_until(lambda: browser.run("getComputedStyle(document.querySelector('.allow')).opacity === '1'"), "it settles")
    assert browser.run("document.documentElement.scrollWidth <= 390"), "a phone need not scroll sideways"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    picture(browser, "web-phone.png", pytestconfig)
    browser.click(".allow")
    signing.join(30)
    assert done.pop().code == 0
    browser.screen(1280, 1000)
    browser.wait_for("live", "#state")
    browser.wait_for("signed", "#audit")

    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", web.card.reader], ferry.env, stdin=True)
    holder.wait_for("held")
    signing = sign(guest, ferry, done)
    browser.wait_for("its turn:", "#readers")
    browser.run("scrollTo(0, 0)")
    picture(browser, "web-light.png", pytestconfig)
    holder.write("\n")
    holder.wait()
    browser.wait_for("sign with PIV 9C", "#questions")
    wait_until(lambda: browser.run("getComputedStyle(document.querySelector('.deny')).opacity === '1'"), "it settles")
    browser.click(".question .deny")
    signing.join(30)
    assert done.pop().code != 0
    browser.wait_for("denied", "#audit")

    browser.wait_for("live", "#state")
    browser.wait_for("0 contexts", "#guests")  # so that nothing moves under the mouse
    browser.click("#joined summary")
    wait_until(lambda: browser.run("document.querySelector('#joined details').open"), "it is unfolded")
    browser.click("#joined .deny")
    browser.wait_for("Nobody has joined", "#joined")
    ferry.process.wait_for("the session with .* is over", stream="err", timeout=10)
    browser.wait_for("No guest is linked", "#guests")


def test_without_javascript_there_are_the_tables_and_a_link_is_good_once(web: Web) -> None:
    used = web.link
    with Chromium(web.host) as browser:
        browser.without_javascript()
        browser.open(used)
        browser.wait_for("loaded anew", "#state")
        assert "PIV" in browser.text("#readers")
        assert "Audit" in browser.text()
        assert web.link != used
        browser.open(used)
        browser.wait_for("This link is not good")
