"""``docs/jobs/browsers.md``: Chromium and Firefox log in to a web server with a card that is at another computer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import CARDFERRY, Computer
from tests.lab.link import install_cardferry
from tests.lab.namespaces import PLAIN_PYTHON, is_root
from tests.lab.process import Command, Running
from tests.lab.screen import Screen
from tests.real.test_jobs import PAGES, Desk, variable

HTTPS = Path(__file__).parents[1] / "lab" / "https_server.py"
NAME = "PIV Authentication"
VISITOR = f"visitor {NAME}, cardferry"
#: What takes the certificate without a question, and the dialogs' answers at once (a person is slower).
PREFERENCES = {
    '"security.default_personal_cert"': '"Select Automatically"',
    '"security.dialog_enable_delay"': "0",
    '"termsofuse.bypassNotification"': "true",
    '"datareporting.policy.dataSubmissionPolicyBypassNotification"': "true",
}


class Site:
    """A web server for whoever has the key in 9A; its certificate comes from an authority of its own."""

    def __init__(self, lab: Lab, desk: Desk) -> None:
        self.computer = lab.computer("server")
        home = self.computer.home
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = ["-addext", "subjectAltName=DNS:server", "-addext", "basicConstraints=critical,CA:FALSE"]
        run = self.computer.run
        run([*new, "-subj", "/CN=lab", "-keyout", "authority.key", "-out", "authority.pem"]).check()
        signed = ["-CA", "authority.pem", "-CAkey", "authority.key", *names]
        run([*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.crt", *signed]).check()
        (home / "server.pem").write_text((home / "server.key").read_text() + (home / "server.crt").read_text())
        (home / "clients.pem").write_text(certificate(desk.build1))
        shutil.copy(home / "authority.pem", desk.build1.home)
        words: Command = [PLAIN_PYTHON, HTTPS, self.computer.address, "server.pem", "clients.pem"]
        self.process: Running = self.computer.popen(words)
        self.process.wait_for("^ready$")
        hosts = desk.build1.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.computer.address} server\n")
        desk.build1.holder.mount_bind(hosts, "/etc/hosts")


def json_of(section: str) -> str:
    """What the page has there for a file in ``/etc``."""
    text = (PAGES / "browsers.md").read_text().partition(f"\n## {section}")[2]
    return text.partition("```json\n")[2].partition("```")[0]


def module() -> Path:
    return next(Path("/usr/lib").glob("*/opensc-pkcs11.so"))


def certificate(computer: Computer) -> str:
    """That of 9A (PEM)."""
    words: Command = ["pkcs11-tool", "--module", module(), "--read-object", "--type", "cert", "--id", "01", "-o", "9a"]
    computer.run(words, variable(computer)).check()
    return computer.run(["openssl", "x509", "-inform", "der", "-in", "9a"]).check().out


def trust(desk: Desk, database: Path) -> None:
    words = ["certutil", "-A", "-d", f"sql:{database}", "-t", "C,,", "-n", "lab", "-i", "authority.pem"]
    desk.build1.run(words).check()


def log_in_with_chromium(lab: Lab, desk: Desk, answer: str) -> None:
    """Start it, and type that where it asks for the PIN."""
    desk.attach()
    build1 = desk.build1
    site = Site(lab, desk)
    assert "Token Name: cardferry" in desk.types("browsers").out
    trust(desk, build1.home / ".pki" / "nssdb")
    build1.hide("/etc/chromium")
    policy = build1.outside("/etc/chromium/policies/managed/card.json")
    policy.parent.mkdir(parents=True)
    policy.write_text(json_of("Chromium").replace("intranet.example.org", "server"))
    screen = Screen(build1)
    words: Command = [CARDFERRY, "run", "--", "chromium", "--no-sandbox", "--no-first-run", "https://server/"]
    build1.popen(words, screen.env)
    screen.wait_for("^Unlock Security Device$")
    screen.enter("^Unlock Security Device$", answer)
    site.process.wait_for(VISITOR)
    screen.wait_for(f"^Hello {NAME}")


@pytest.mark.skipif(not is_root(), reason="not run, missing: root, for a policy in /etc")
def test_chromium_logs_in_to_a_server(lab: Lab) -> None:
    log_in_with_chromium(lab, Desk(lab, piv_card), PIV_PIN)


@pytest.mark.slow
@pytest.mark.skipif(not is_root(), reason="not run, missing: root, for a policy in /etc")
def test_chromium_logs_in_with_a_pin_that_the_host_has(lab: Lab) -> None:
    desk = Desk(lab, piv_card)
    install_cardferry(desk.laptop)
    pin, rules = desk.laptop.home / "card.pin", desk.laptop.home / ".config" / "cardferry" / "config.toml"
    rules.parent.mkdir(parents=True)
    who = f'who = "ssh:{desk.laptop.user}"\nmay = ["read", "authenticate:9A"]'
    for path, text in ((pin, PIV_PIN), (rules, f'[[allow]]\n{who}\npin = "host"\npin-from = "file:{pin}"\n')):
        path.write_text(text)
        path.chmod(0o600)
    log_in_with_chromium(lab, desk, "whatever")


@pytest.mark.slow
@pytest.mark.skipif(not is_root(), reason="not run, missing: root, for a policy")
@pytest.mark.skipif(shutil.which("firefox-esr") is None, reason="not run, missing: firefox-esr")
def test_firefox_logs_in_to_a_server(lab: Lab) -> None:
    desk = Desk(lab, piv_card)
    desk.attach()
    build1 = desk.build1
    site = Site(lab, desk)
    profile = build1.home / "profile"
    profile.mkdir()
    build1.run(["certutil", "-N", "-d", f"sql:{profile}", "--empty-password"]).check()
    build1.hide("/usr/share/firefox-esr/distribution")
    policies = build1.outside("/usr/share/firefox-esr/distribution/policies.json")
    policies.write_text(json_of("Firefox").replace("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so", str(module())))
    trust(desk, profile)
    (profile / "user.js").write_text("".join(f"user_pref({name}, {value});\n" for name, value in PREFERENCES.items()))
    screen = Screen(build1)
    words: Command = [CARDFERRY, "run", "--", "firefox-esr", "--no-remote", "--profile", profile, "https://server/"]
    build1.popen(words, screen.env)
    screen.wait_for("^Password Required")
    screen.enter("^Password Required", PIV_PIN)
    site.process.wait_for(VISITOR, timeout=60)
    screen.wait_for(f"^Hello {NAME}")
