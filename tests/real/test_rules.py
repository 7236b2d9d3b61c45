"""The host decides: unmodified programs on two guests, with one PIV card and rules that the test writes.

The host shares its card to guests that have nothing but sshd, so the principals are ``ssh:one`` and ``ssh:two``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import OPENPGP_PIN, PIV_PIN
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.ferry import Ferry, cardferry, over
from tests.lab.gpg import Gpg
from tests.lab.process import Command, Result, wait_until
from tests.lab.sshd import Sshd

PORT = 35963
#: What the host says when it has read rules.
_READ = re.compile("what they do not allow is denied|no rules: ")
SELECT, VERIFY = "00A4040005A000000308", "0020008008313233343536FFFF"
SIGN = "0087119A267C2482008120" + "11" * 32 + "00"


class Team:
    """A host with a card, and two guests."""

    def __init__(self, lab: Lab, card: str = "card_piv") -> None:
        self.host = lab.computer("host")
        self.one, self.two = lab.computer("one"), lab.computer("two")
        self.rules = self.host.home / "rules.toml"
        self.audit = self.host.home / "audit.jsonl"
        self.readers = f"vpicc:{PORT}"
        self.prepare()
        self.write_rules("")
        ssh = self.host.folder / "ssh_config.guests"
        ssh.write_text("".join(Sshd(guest).config(self.host, guest.name).read_text() for guest in (self.one, self.two)))
        words = ["share", "one", "two", "--readers", self.readers, "--config", str(self.rules), *over(ssh)]
        self.ferry = Ferry(self.host, words)
        self.ferry.wait_until_ready()
        self._card_words = [sys.executable, "-m", f"tests.lab.{card}", f"--port={PORT}"]
        if card == "card_openpgp":
            self._card_words.append(f"--storage={self.host.folder / 'openpgp'}")
        if self.readers.startswith("vpicc:"):
            self.insert()

    def insert(self) -> None:
        """Put the card in."""
        words = self._card_words
        self.card = self.host.popen(words, env={"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}, mounts=False)
        self.card.wait_for("^inserted$")

    def prepare(self) -> None:
        """What the host has before cardferry starts there."""

    def write_rules(self, text: str) -> None:
        """Rules that hold once somebody asks for something."""
        self.rules.write_text(f'audit-file = "{self.audit}"\n{text}')
        self.rules.chmod(0o600)

    def now(self, text: str) -> None:
        """Rules that hold from now on."""
        before = len(_READ.findall(str(self.ferry.process)))
        self.write_rules(text)

        def known() -> bool:
            self.run(self.one, "opensc-tool", "--list-readers")
            return len(_READ.findall(str(self.ferry.process))) > before

        wait_until(known, "the rules are read again")

    def run(self, guest: Computer, *command: str | Path) -> Result:
        """A program on a guest."""
        return guest.run(list(command), self.ferry.env)

    def apdus(self, guest: Computer, *apdus: str) -> list[str]:
        """Status words of commands that a program sends in one connection, as they are."""
        words = [word for apdu in apdus for word in ("-s", apdu)]
        out = self.run(guest, "opensc-tool", "-c", "default", *words).out
        return ["".join(found).lower() for found in re.findall(r"SW1=0x(..), SW2=0x(..)", out)]


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Lab() as lab:
        yield Team(lab)


ASK = "00200080"
WRONG = "0020008008393939393939FFFF"


def rule(*may: str, who: str = "ssh:two", more: str = "") -> str:
    """A rule, behind one that leaves everything to the other guest."""
    return f'[[allow]]\nwho = "{who}"\nmay = {list(may)}\n{more}\n[[allow]]\nwho = "ssh:one"\nmay = "all"\n'


def test_a_pin_that_one_guest_has_verified_is_of_no_use_to_the_next(team: Team) -> None:
    team.now("")
    assert team.apdus(team.one, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]
    assert team.apdus(team.one, SIGN) == ["9000"], "within a principal it is as at pcscd"
    assert team.apdus(team.two, SELECT, SIGN) == ["9000", "6982"]
    team.now("isolation = false")
    assert team.apdus(team.one, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]
    assert team.apdus(team.two, SIGN) == ["9000"], "it was the isolation that has kept them apart"


def sign(team: Team, *words: str) -> Result:
    """pkcs11-tool on the second guest signs with the key for PIV authentication."""
    (team.two.home / "letter").write_text("Dear card, please sign this.\n")
    files: Command = ["-i", team.two.home / "letter", "-o", team.two.home / "signature"]
    return team.run(team.two, "pkcs11-tool", "--login", *words, "--sign", "--id", "01", "-m", "ECDSA-SHA256", *files)


@pytest.mark.parametrize(
    ("may", "works"),
    [
        (["read", "verify", "authenticate:9A"], True),
        (["read", "verify", "sign:9C"], False),
        (["read", "authenticate:9A"], False),
        (["verify"], False),
    ],
    ids=["allowed", "another key", "no PIN", "verify is more than read"],
)
def test_pkcs11_tool_gets_on_with_what_is_denied(team: Team, may: list[str], works: bool) -> None:
    team.now(rule(*may))
    result = sign(team, "--pin", PIV_PIN)
    assert (result.code == 0) is works, result
    assert team.run(team.two, "pkcs11-tool", "-O").code == 0


def test_yubico_piv_tool_gets_on_with_what_is_denied(team: Team) -> None:
    tool = ["yubico-piv-tool", "-r", "cardferry"]
    team.now(rule("read", "verify", "authenticate", "sign", "decrypt"))
    assert "Slot 9a" in team.run(team.two, *tool, "-a", "status").check().all
    team.run(team.two, *tool, "-a", "verify-pin", "-P", PIV_PIN).check()
    for action in (
        ["generate", "-s", "9d", "-A", "ECCP256"],
        ["change-pin", "-P", PIV_PIN, "-N", "654321"],
        ["write-object", "--id", "6275327", "-i", "/dev/null"],
        ["reset"],
    ):
        assert team.run(team.two, *tool, "-a", *action).code != 0, action
    team.now(rule("all"))
    team.run(team.two, *tool, "-a", "generate", "-s", "9d", "-A", "ECCP256").check()
    team.run(team.two, *tool, "-a", "verify-pin", "-P", PIV_PIN).check()


def answers(pinentry: Path, script: str) -> None:
    """A pinentry that answers each ``$word`` with a shell's script."""
    pinentry.write_text(f"#!/bin/sh\necho OK; while read word rest; do {script}; done\n")
    pinentry.chmod(0o755)


@pytest.mark.parametrize("of", ["secret", "person"])
def test_the_host_gives_the_pin_to_a_program_that_thinks_of_a_pinpad(team: Team, of: str) -> None:
    secret, asking = team.host.home / "pin", team.host.home / "pinentry"
    secret.write_text(PIV_PIN)
    secret.chmod(0o600)
    asking.write_text(
        f"#!/bin/sh\necho OK; while read word rest; do [ $word = GETPIN ] && echo D {PIV_PIN}; echo OK; done\n"
    )
    asking.chmod(0o755)
    more = f'pin = "host"\npin-from = "file:{secret}"' if of == "secret" else 'pin = "pinpad"'
    team.now(f'pinentry = "{asking}"\n' + rule("read", "authenticate:9A", more=more))
    sign(team).check()
    assert sign(team, "--pin", PIV_PIN).code != 0, "it is not the guest's to give"
    (team.two.home / "signature").unlink()
    team.now(rule("read", "authenticate:9A"))
    assert sign(team, "--pin", PIV_PIN).code != 0


def test_the_person_at_the_host_is_asked(team: Team) -> None:
    asking = team.host.home / "pinentry"
    for answer, works in (("OK", True), ("ERR 83886179", False)):
        answers(asking, f"[ $word = CONFIRM ] && echo {answer} || echo OK")
        team.now(f'pinentry = "{asking}"\n' + rule("read", "verify", "authenticate:9A", more='ask = "always"'))
        assert (sign(team, "--pin", PIV_PIN).code == 0) is works


def test_fifty_wrong_pins_leave_at_least_one_try(team: Team) -> None:
    team.now("")
    answers = team.apdus(team.two, SELECT, *[WRONG] * 50)
    assert answers[:3] == ["9000", "63c2", "63c1"]
    assert set(answers[3:]) == {"6983"}
    assert "ssh:two has given wrong PINs" in cardferry(team.host, "guests").out
    assert team.apdus(team.one, SELECT, ASK) == ["9000", "63c1"]
    assert team.apdus(team.one, SELECT, WRONG) == ["9000", "63c0"]
    assert team.apdus(team.one, SELECT, ASK) == ["9000", "63c1"], "it was the host that has said so"
    cardferry(team.host, "guests", "forgive", "two").check()
    team.now("keep-tries = 0")
    assert team.apdus(team.two, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]


def test_what_was_done_is_written_down(team: Team) -> None:
    team.now(rule("read", "verify", "sign:9C"))
    team.apdus(team.two, SELECT, VERIFY, SIGN)
    said = cardferry(team.host, "audit", "show", "--file", str(team.audit), "--last", "2").check().out
    assert "ssh:two, done, verified PIN PIV 80" in said
    assert "ssh:two, denied, authenticated with PIV 9A" in said
    assert PIV_PIN not in team.audit.read_text()
    assert "none of them changed" in cardferry(team.host, "audit", "verify", "--file", str(team.audit)).check().out


@pytest.fixture
def gpg_team(lab: Lab) -> Team:
    return Team(lab, "card_openpgp")


def test_gpg_gets_on_with_what_is_denied_and_scdaemon_uses_the_pinpad(gpg_team: Team) -> None:
    team = gpg_team
    gpg = Gpg(team.two, team.ferry.socket, options=("pcsc-shared", "enable-pinpad-varlen"))
    gpg.make_keys()
    team.now(rule("read", "verify", "decrypt"))
    assert gpg.sign("Dear card, please sign this.").code != 0
    assert "Signature counter" in gpg.card_status().check().out
    team.now(rule("read", "verify", "sign:SIG"))
    assert "BEGIN PGP SIGNATURE" in gpg.sign("Dear card, please sign this.").check().out
    secret = team.host.home / "pin"
    secret.write_text(OPENPGP_PIN)
    secret.chmod(0o600)
    team.now(rule("read", "sign:SIG", more=f'pin = "host"\npin-from = "file:{secret}"'))
    gpg.stop()
    answers(gpg.home / "pinentry", "[ $word = GETPIN ] && echo ERR 83886179 || echo OK")  # the guest has no PIN
    signed = gpg.sign("Dear card, please sign this.").check().out
    assert "Good signature" in gpg.verify(signed).check().err
