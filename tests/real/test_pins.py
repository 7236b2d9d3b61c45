"""The PIN stays at the host: unmodified programs on a guest use a pinpad that is none, or give a ticket; and consent.

As in `test_rules`, the host shares its card to guests that have nothing but sshd.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import OPENPGP_PIN, PIV_PIN
from tests.lab.computer import CARDFERRY, REPOSITORY
from tests.lab.ferry import Ferry, cardferry
from tests.lab.gpg import Gpg
from tests.lab.memory import holds, limits
from tests.lab.process import Result, wait_until
from tests.lab.sshd import PORT as SSH_PORT
from tests.lab.terminal import OnTerminal
from tests.real.test_rules import PORT, SELECT, VERIFY, Team, answers, rule, sign

pytestmark = pytest.mark.real

ALL = ("read", "sign:9C", "authenticate:9A")


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Lab() as lab:
        yield Team(lab)


def secret(team: Team, pin: str = PIV_PIN) -> str:
    """A file with the PIN, as rules name it."""
    path = team.host.home / "pin"
    path.write_text(pin)
    path.chmod(0o600)
    return f'pin-from = "file:{path}"'


def ticket(team: Team, *words: str, may: str = "authenticate:9A") -> str:
    made = cardferry(team.host, "ticket", "ssh:two", "--may", may, "--config", str(team.rules), *words).check()
    assert re.fullmatch(r"\d{8}\n", made.out)
    return made.out.strip()


# tickets


def test_pkcs11_tool_gives_a_ticket(team: Team) -> None:
    team.now(rule(*ALL, more=f'pin = "ticket"\n{secret(team)}'))
    digits = ticket(team, "--uses", "2", "--for", "8h")
    assert sign(team, "--pin", PIV_PIN).code != 0
    sign(team, "--pin", digits).check()
    other = ("pkcs11-tool", "--login", "--pin", digits, "--sign", "--id", "02", "-m", "ECDSA-SHA256")
    assert team.run(team.two, *other, "-i", team.two.home / "letter", "-o", "/dev/null").code != 0
    assert "ssh:two may authenticate:9A, 1 times" in cardferry(team.host, "ticket", "list").out
    sign(team, "--pin", digits).check()
    assert sign(team, "--pin", digits).code != 0
    assert "no tickets" in cardferry(team.host, "ticket", "list").out
    again = ticket(team, "--uses", "2")
    (agent,) = {one["agent"] for one in json.loads(cardferry(team.host, "status", "--json").out)}
    os.kill(agent, signal.SIGKILL)
    team.ferry.process.wait_for("the readers are there again", stream="err")
    team.insert()
    sign(team, "--pin", again).check()
    assert "good for nothing" in cardferry(team.host, "ticket", "revoke", "ssh:two").check().out
    assert sign(team, "--pin", again).code != 0
    # the card has been told no wrong PIN, and who gave one waits
    assert [team.apdus(team.two, SELECT, VERIFY)[1] for _ in range(2)][-1] in ("63c0", "6983")
    assert "ssh:two" in cardferry(team.host, "guests").out
    cardferry(team.host, "guests", "forgive", "ssh:two").check()
    assert team.apdus(team.one, SELECT, "00200080") == ["9000", "63c3"]


def test_ssh_logs_in_with_a_ticket(team: Team) -> None:
    team.now(rule(*ALL, more=f'pin = "ticket"\n{secret(team)}'))
    module = next(Path("/usr/lib").glob("*/opensc-pkcs11.so"))
    keys = team.run(team.two, "ssh-keygen", "-D", module).check().out
    with team.one.outside("/run/sshd/authorized_keys").open("a") as authorized:
        authorized.write(keys)
    asking = team.two.home / "asking"
    asking.write_text(f"#!/bin/sh\necho {ticket(team, '--uses', '1')}\n")
    asking.chmod(0o700)
    options = (
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-p",
        str(SSH_PORT),
        "-I",
        module,
    )
    env = {**team.ferry.env, "SSH_ASKPASS": str(asking), "SSH_ASKPASS_REQUIRE": "force"}
    words: list[str | Path] = ["ssh", *options, "-I", module, f"{team.one.user}@{team.one.address}", "hostname"]
    assert team.two.run(words, env).check().out == "one\n"
    assert team.two.run([*words[:1], "-o", "NumberOfPasswordPrompts=1", *words[1:]], env).code != 0, "it is used up"


@pytest.fixture
def gpg_team(lab: Lab) -> Team:
    return Team(lab, "card_openpgp")


def test_gpg_gives_a_ticket(gpg_team: Team) -> None:
    team = gpg_team
    gpg = Gpg(team.two, team.ferry.socket, options=("pcsc-shared",))
    gpg.make_keys()
    team.now(rule("read", "sign:SIG", "decrypt", more=f'pin = "ticket"\n{secret(team, OPENPGP_PIN)}'))
    gpg.stop()
    answers(gpg.home / "pinentry", f"[ $word = GETPIN ] && echo D {ticket(team, may='sign:SIG')}; echo OK")
    signed = gpg.sign("Dear card, please sign this.").check().out
    assert "Good signature" in gpg.verify(signed).check().err
    assert gpg.sign("Dear card, please sign this.").code != 0, "it is used up"


def test_scdaemon_has_a_pin_changed_at_the_host(gpg_team: Team) -> None:
    team = gpg_team
    gpg = Gpg(team.two, team.ferry.socket, options=("pcsc-shared", "enable-pinpad-varlen"))
    gpg.make_keys()
    asking, new = team.host.home / "pinentry", "876543"
    answers(asking, f"""case "$word $rest" in "SETPROMPT New"*) pin={new};; "SETPROMPT PIN"*) pin={OPENPGP_PIN};; esac
                        [ $word = GETPIN ] && echo D $pin; echo OK""")  # fmt: skip
    team.now(f'pinentry = "{asking}"\n' + rule("read", "sign:SIG", "manage-pin:81", more='pin = "pinpad"'))
    gpg.stop()
    answers(gpg.home / "pinentry", "[ $word = GETPIN ] && echo ERR 83886179 || echo OK")  # the guest has no PIN
    gpg.card_status().check()
    changing = ["gpg-connect-agent", "SCD PASSWD 1", "/bye"]
    assert "ERR" not in team.two.run(changing, {"GNUPGHOME": str(gpg.home)}).check().out
    gpg.stop()
    assert gpg.sign("Dear card, please sign this.").code != 0
    answers(asking, f"[ $word = GETPIN ] && echo D {new}; echo OK")
    assert "BEGIN PGP SIGNATURE" in gpg.sign("Dear card, please sign this.").check().out
    assert "changed PIN OpenPGP 81" in team.audit.read_text()


# the person


def test_the_person_says_yes_no_nothing_or_for_ten_minutes(team: Team) -> None:
    asking, asked = team.host.home / "pinentry", team.host.home / "asked"

    def says(answer: str, how: str) -> bool:
        asked.write_text("")
        answers(asking, f"[ $word = SETDESC ] && echo $rest >>{asked}; [ $word = CONFIRM ] && {answer} || echo OK")
        team.now(f'ask-with = ["pinentry"]\nask-timeout = 1\npinentry = "{asking}"\n'
                 + rule("read", "verify", "authenticate:9A", more=f'ask = "{how}"'))  # fmt: skip
        results: list[Result] = []

        def asks() -> bool:
            results.append(sign(team, "--pin", PIV_PIN))
            return "wants to use" in asked.read_text()

        wait_until(asks, "the no of before is over")
        return results[-1].code == 0

    assert says("echo OK", "always")
    assert re.fullmatch(
        r"ssh:two \(a program on two\) wants to use the card in cardferry vpicc 00 00, serial \d+: "
        r"authenticate with PIV 9A, CN=cardferry,OU=PIV Authentication\.\n",
        asked.read_text(),
    ), asked.read_text()
    assert not says("echo ERR 83886194 no", "always")
    assert not says("sleep 30", "always")
    assert says("echo OK", "first")  # and the second question, for ten minutes
    assert asked.read_text().count("wants to use") == 1
    assert sign(team, "--pin", PIV_PIN).code == 0
    assert asked.read_text().count("wants to use") == 1


def test_the_terminal_of_share_is_where_the_person_is(team: Team) -> None:
    team.now("")
    pin_and_consent = 'pin = "pinpad"\nask = "first"'
    team.now('ask-with = ["terminal"]\n' + rule("read", "sign:9C", more=pin_and_consent))
    assert "for a PIN: nobody can be asked" in cardferry(team.host, "status").out
    words: list[str | Path] = [
        CARDFERRY,
        "share",
        "one",
        "--no-link",
        "--readers",
        f"vpicc:{PORT}",
        "--config",
        str(team.rules),
    ]
    config = team.host.folder / "ssh_config.guests"
    words += ["--remote-socket", "/run/another", "-e", f"ssh -F {shlex.quote(str(config))}"]
    with OnTerminal(words, team.host.env, within=team.host.command([])) as terminal:
        terminal.wait_for("ready /run/another")
        assert "for a PIN: the terminal of cardferry" in cardferry(team.host, "status").out
        done: list[Result] = []

        def run(*command: str | Path) -> threading.Thread:
            thread = threading.Thread(target=lambda: done.append(team.run(team.two, *command)))
            thread.start()
            return thread

        files = ("-i", "/etc/hostname", "-o", "/dev/null")
        thread = run("pkcs11-tool", "--login", "--sign", "--id", "02", "-m", "ECDSA-SHA256", *files)
        terminal.wait_for(r"ssh:two .* wants the PIN of the card in .*, for: sign:9C\.")
        for _ in range(2):  # this key wants a PIN before each use
            terminal.wait_for(r"\nPIN \(.*: ")
            terminal.enter(f"{PIV_PIN}\n")
        terminal.wait_for(r"ssh:two .*sign with PIV 9C, CN=.*\r\nyes, no, or ten.*: ")
        terminal.enter("ten\n")
        thread.join(20)
        assert done.pop().code == 0
        assert PIV_PIN not in terminal.text


# what is written


def test_pins_and_tickets_are_written_nowhere(team: Team) -> None:
    """A PIN that is no card's, from a file and from the person, and a ticket: all that the run has left is searched."""
    kept, typed = "73519264", "80462957"
    record = team.host.home / "record"
    asking = team.host.home / "pinentry"
    answers(asking, f"[ $word = GETPIN ] && echo D {typed}; echo OK")
    team.now("")
    words = ["share", "one", "--no-link", "-vv", "--record", str(record), "--readers", f"vpicc:{PORT}"]
    words += ["--config", str(team.rules), "--remote-socket", "/run/recorded"]
    words += ["-e", f"ssh -F {shlex.quote(str(team.host.folder / 'ssh_config.guests'))}"]
    recorded = Ferry(team.host, words)

    def verify(more: str, *command: str) -> None:
        text = f'pinentry = "{asking}"\n' + rule(*ALL, who="ssh:one", more=more)
        team.now(text)
        team.one.run(["pkcs11-tool", "--login", *command], recorded.env)

    verify(f'pin = "host"\n{secret(team, kept)}', "--test")
    cardferry(team.host, "guests", "forgive", "ssh:one")
    verify('pin = "pinpad"', "--test")
    cardferry(team.host, "guests", "forgive", "ssh:one")
    team.now(rule(*ALL, who="ssh:one", more=f'pin = "ticket"\n{secret(team, kept)}'))
    made = cardferry(team.host, "ticket", "ssh:one", "--may", "authenticate:9A", "--config", str(team.rules)).check()
    digits = made.out.strip()
    team.one.run(["pkcs11-tool", "--login", "--pin", digits, "--test"], recorded.env)
    assert team.audit.read_text().count('"verify:80"') >= 3
    assert "VERIFY" in record.read_text()
    (agent,) = {one["agent"] for one in json.loads(cardferry(team.host, "status", "--json").out)}
    said = [str(recorded.process), str(team.ferry.process), cardferry(team.host, "status", "--json").out]
    said += [cardferry(team.host, "audit", "show", "--file", str(team.audit)).out]
    ours = [path for path in (team.host.folder, team.host.outside("/run"), team.host.outside("/tmp")) if path.is_dir()]
    files = [path for folder in ours for path in folder.rglob("*") if path.is_file()]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            said.append((process / "cmdline").read_text(errors="replace"))
            said.append((process / "environ").read_text(errors="replace"))
    own = {team.host.home / "pin", asking}
    ours_in_tmp = team.host.outside(REPOSITORY)  # these tests say what the PINs are
    written = [path.read_bytes() for path in files if path not in own and not path.is_relative_to(ours_in_tmp)]
    written += [text.encode(errors="replace") for text in said]
    for number in (kept, typed, digits):
        plain = number.encode()
        forms = [plain, plain.hex().encode(), plain.hex(" ").encode(), bytes.fromhex(number)]  # digits have no capitals
        assert [text for text in written if any(form in text for form in forms)] == []
        wait_until(lambda forms=forms: not any(holds(agent, form) for form in forms), "it is in no memory")  # type: ignore[misc]
    assert limits(agent)["Max core file size"][0] == "0"
    recorded.stop()
    cardferry(team.host, "guests", "forgive", "ssh:one")
    team.now("keep-tries = 0")
    assert team.apdus(team.one, SELECT, VERIFY) == ["9000", "9000"], "the card has all its tries again"


def test_systemd_asks_for_the_pin(team: Team) -> None:
    team.now('ask-with = ["systemd-ask-password"]\n' + rule("read", "authenticate:9A", more='pin = "pinpad"'))
    team.host.outside("/run/systemd").mkdir(exist_ok=True)
    questions = team.host.outside("/run/systemd/ask-password")
    done: list[Result] = []
    thread = threading.Thread(target=lambda: done.append(sign(team)))
    thread.start()
    asked = wait_until(lambda: list(questions.glob("ask.*")) if questions.is_dir() else [], "it asks")
    text = wait_until(asked[0].read_text, "the question is written")
    assert "ssh:two" in text
    (place,) = re.findall("^Socket=(.*)$", text, re.MULTILINE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answering:
        answering.sendto(f"+{PIV_PIN}".encode(), str(team.host.outside(place)))
    thread.join(20)
    assert done.pop().code == 0
