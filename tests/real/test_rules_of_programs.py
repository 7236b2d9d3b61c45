"""The host decides, and unmodified programs get on with it: who finds a card unlocked, and each operation by itself.

With a PIV card and with an OpenPGP card, for OpenSC, Yubico's tools and GnuPG.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import OPENPGP_PIN, PIV_PIN, piv_card
from tests.lab.computer import PCSC_CLIENT, Computer
from tests.lab.ferry import Ferry, cardferry
from tests.lab.gpg import Gpg
from tests.lab.link import AGENT, processes
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Command, Result, wait_until
from tests.real.test_rules import _READ, SELECT, SIGN, VERIFY, Team

_JOURNALD = "/usr/lib/systemd/systemd-journald"
#: Sends a command to the reader (pyscard).
_CONTROL = """
from smartcard.scard import *
def check(code):
    if code:
        raise SystemExit(SCardGetErrorMessage(code))
code, context = SCardEstablishContext(SCARD_SCOPE_USER)
check(code)
code, readers = SCardListReaders(context, [])
check(code)
code, card, _ = SCardConnect(context, readers[0], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY)
check(code)
code, _ = SCardControl(card, SCARD_CTL_CODE(1), [1, 2, 3])
check(code)
"""
_DISK = 128 * 1024


class SignalledTeam(Team):
    """A team whose agent is told when there are other rules."""

    def now(self, text: str) -> None:
        """SIGHUP has the agent read them at once."""
        before = len(_READ.findall(str(self.ferry.process)))
        self.write_rules(text)
        (agent,) = processes(self.host, AGENT)
        os.kill(agent, signal.SIGHUP)
        wait_until(lambda: len(_READ.findall(str(self.ferry.process))) > before, "the rules are read again")


class WatchedTeam(SignalledTeam):
    """A team whose card is at a pcscd, whose audit is on a small disk of its own, and whose host has a journal."""

    def prepare(self) -> None:
        piv_card(Pcscd(self.host, name="Yubico YubiKey OTP+FIDO+CCID"))
        self.readers = f"pcscd:{SOCKET}"
        folder = self.host.home / "disk"
        folder.mkdir(mode=0o700)
        self.host.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=700", "none", folder]).check()
        self.audit = folder / "audit.jsonl"
        self.host.run(["mkdir", "-p", "/run/systemd/journal", "/run/log/journal"]).check()
        self.host.popen([_JOURNALD])
        wait_until(self.host.outside("/run/systemd/journal/socket").exists, "the journal is there")

    def audited(self) -> list[dict[str, object]]:
        """All lines."""
        lines = self.host.outside(self.audit).read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def team() -> Iterator[WatchedTeam]:
    with Lab() as lab:
        yield WatchedTeam(lab)


@pytest.fixture(scope="module")
def local(team: WatchedTeam) -> Ferry:
    """Programs of the host itself, in the same queue."""
    return Ferry(team.host, ["attach", f"pcscd:{SOCKET}"])


def pkcs11_tool_signs(team: Team, guest: Computer) -> None:
    """It signs, and leaves."""
    words = ["--login", "--pin", PIV_PIN, "--sign", "--id", "01", "-m", "ECDSA-SHA256", "-i", "/dev/null"]
    team.run(guest, "pkcs11-tool", *words, "-o", guest.home / "signature").check()


def opensc_tool_signs(team: Team, guest: Computer) -> None:
    """A program that resets nothing when it leaves."""
    assert team.apdus(guest, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]


def signs_without_a_pin(computer: Computer, env: Mapping[str, str]) -> bool:
    words = ["opensc-tool", "-c", "default", "-s", SELECT, "-s", SIGN]
    said = computer.run(words, env).check().out.rpartition("SW1=")[2]
    assert said.startswith(("0x90", "0x69, SW2=0x82")), said
    return said.startswith("0x90")


@pytest.mark.parametrize("unlock", [pkcs11_tool_signs, opensc_tool_signs], ids=lambda one: one.__name__)
def test_who_signs_without_a_pin_after_whom(
    team: WatchedTeam, local: Ferry, unlock: Callable[[Team, Computer], None]
) -> None:
    guests = team.ferry.env
    for more, shared in (("", False), ("isolation = false", True)):
        team.now(more)
        unlock(team, team.one)
        assert signs_without_a_pin(team.one, guests), "within a principal it is as at pcscd"
        for computer, env in ((team.two, guests), (team.host, local.env)):
            unlock(team, team.one)
            assert signs_without_a_pin(computer, env) is shared, (more, computer.name)


def test_what_the_hosts_own_program_has_unlocked_is_not_a_guests(team: WatchedTeam, local: Ferry) -> None:
    team.now("")
    words = ["opensc-tool", "-c", "default", "-s", SELECT, "-s", VERIFY, "-s", SIGN]
    assert team.host.run(words, local.env).check().out.count("SW1=0x90") == 3
    assert not signs_without_a_pin(team.one, team.ferry.env)


def test_a_guest_that_is_killed_in_its_transaction_leaves_nothing_unlocked(team: WatchedTeam) -> None:
    team.now("")
    opensc_tool_signs(team, team.one)
    holder = team.one.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", "Yubico"], team.ferry.env, stdin=True)
    holder.wait_for("held")
    waiting = team.two.popen(["opensc-tool", "-c", "default", "-s", SELECT, "-s", SIGN], team.ferry.env)
    holder.kill()
    assert waiting.wait(30).out.rpartition("SW1=")[2].startswith("0x69, SW2=0x82")


def test_a_reader_that_is_for_others_is_not_in_a_programs_list(team: WatchedTeam, local: Ferry) -> None:
    """The rule names a certificate on the card, which the host has read by itself."""
    guests = team.ferry.env
    for card, seen in (("CN=cardferry*", [True, False, False]), ("CN=another*", [False] * 3)):
        team.now(f'[[allow]]\nwho = "ssh:one"\nmay = "read"\ncard = "{card}"\n')
        everybody = [(team.one, guests), (team.two, guests), (team.host, local.env)]
        lists = [computer.run(["opensc-tool", "--list-readers"], env).all for computer, env in everybody]
        assert ["Yubico" in listed for listed in lists] == seen, lists


#: A command, and what it needs: the last of it is what the other guest may not.
PIN: Command = ["--login", "--pin", PIV_PIN]
YKCS11 = next(Path("/usr/lib").glob("*/libykcs11.so.2"))
EC: Command = ["-m", "ECDSA-SHA256", "-i", "/etc/hostname", "-o", "/tmp/signature"]
DERIVE: Command = ["--derive", "-m", "ECDH1-DERIVE", "--id", "03", "-i", "/tmp/other.der", "-o", "/tmp/secret"]
YUBICO: Command = ["yubico-piv-tool", "-r", "Yubico", "-a"]
PROGRAMS: dict[str, tuple[Command, list[str]]] = {
    "OpenSC reads": (["pkcs15-tool", "--read-certificate", "01"], ["read"]),
    "OpenSC gives a PIN": (["pkcs11-tool", *PIN, "--sign", "--id", "01", *EC], ["authenticate:9A", "verify"]),
    "OpenSC authenticates": (["pkcs11-tool", *PIN, "--sign", "--id", "01", *EC], ["verify", "authenticate:9A"]),
    "OpenSC signs": (["pkcs11-tool", *PIN, "--sign", "--id", "02", *EC], ["verify", "sign:9C"]),
    "OpenSC derives": (["pkcs11-tool", *PIN, *DERIVE], ["verify", "decrypt:9D"]),
    "OpenSC changes the PIN": (
        ["pkcs11-tool", *PIN, "--change-pin", "--new-pin", PIV_PIN], ["verify", "manage-pin:80"],
    ),
    "ykcs11 reads": (["pkcs11-tool", "--module", YKCS11, "-O"], ["read"]),
    "ykcs11 gives a PIN": (
        ["pkcs11-tool", "--module", YKCS11, *PIN, "--sign", "--id", "01", *EC], ["authenticate:9A", "verify"],
    ),
    "ykcs11 authenticates": (
        ["pkcs11-tool", "--module", YKCS11, *PIN, "--sign", "--id", "01", *EC], ["verify", "authenticate:9A"],
    ),
    "ykcs11 signs": (
        ["pkcs11-tool", "--module", YKCS11, *PIN, "--sign", "--id", "02", *EC], ["verify", "sign:9C"],
    ),
    "ykcs11 derives": (["pkcs11-tool", "--module", YKCS11, *PIN, *DERIVE], ["verify", "decrypt:9D"]),
    "yubico-piv-tool reads": ([*YUBICO, "read-certificate", "-s", "9a"], ["read"]),
    "yubico-piv-tool gives a PIN": ([*YUBICO, "verify-pin", "-P", PIV_PIN], ["read", "verify"]),
    "yubico-piv-tool changes the PIN": (
        [*YUBICO, "change-pin", "-P", PIV_PIN, "-N", PIV_PIN], ["verify", "manage-pin"],
    ),
    "yubico-piv-tool writes": ([*YUBICO, "set-chuid"], ["administer:9B", "write"]),
    "yubico-piv-tool generates": ([*YUBICO, "generate", "-s", "82", "-A", "ECCP256"], ["administer:9B", "generate:82"]),
    "yubico-piv-tool administers": ([*YUBICO, "set-chuid"], ["write", "administer:9B"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def another_key(team: WatchedTeam) -> None:
    """What to derive a secret with."""
    for guest in (team.one, team.two):
        make = "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -outform DER -out /tmp/other.der"
        guest.run(["sh", "-c", make]).check()


@pytest.mark.usefixtures("another_key")
@pytest.mark.parametrize("what", PROGRAMS)
def test_programs_get_on_with_each_operation_denied_and_allowed(team: WatchedTeam, what: str) -> None:
    """One guest may, the other one may not: its program says so, and is not the worse for it."""
    command, needs = PROGRAMS[what]
    without = needs[:-1] or ["control"]
    team.now("".join(f'[[allow]]\nwho = "ssh:{who}"\nmay = {may}\n' for who, may in (("one", needs), ("two", without))))
    team.run(team.one, *command).check()
    refused = team.run(team.two, *command)
    assert refused.code > 0, f"it says so, and does not die of it: {refused}"


@pytest.fixture(scope="module")
def gpg() -> Iterator[tuple[SignalledTeam, Gpg, str]]:
    """A guest's GnuPG whose keys are in the host's OpenPGP card, and a letter to it."""
    with Lab() as lab:
        team = SignalledTeam(lab, "card_openpgp")
        gpg = Gpg(team.two, team.ferry.socket, options=("pcsc-shared",))
        to = ["--armor", "--trust-model", "always", "--recipient", gpg.make_keys(), "--encrypt"]
        gpg.stop()
        pkcs11_tool("--read-object", "--type", "pubkey", "--id", "02", "-o", "/tmp/dec.der")(team, gpg, "").check()
        encrypt = f"printf '{SAID}' | openssl pkeyutl -encrypt -pubin -keyform DER -inkey /tmp/dec.der -out {SECRET}"
        team.two.run(["sh", "-c", encrypt]).check()
        yield team, gpg, gpg.run(*to, stdin="Dear card, please read this.").check().out


def edit(team: Team, gpg: Gpg, lines: str) -> Result:
    words = ["gpg", "--no-tty", "--command-fd=0", "--status-fd=1", "--card-edit"]
    return team.two.run(words, gpg.env, stdin=lines)


def name(team: Team, gpg: Gpg, letter: str) -> Result:
    return edit(team, gpg, "admin\nname\nPerson\nLab\nquit\n")


def scd(command: str) -> Callable[[Team, Gpg, str], Result]:
    """A command to scdaemon, which looks at answers and not at exit codes."""

    def run(team: Team, gpg: Gpg, letter: str) -> Result:
        result = team.two.run(["gpg-connect-agent", f"SCD {command}", "/bye"], gpg.env)
        return replace(result, code=result.code or int("ERR" in result.out))

    return run


def openpgp_tool(*words: str) -> Callable[[Team, Gpg, str], Result]:
    return lambda team, gpg, letter: team.run(team.two, "env", "OPENSC_DRIVER=openpgp", "openpgp-tool", *words)


def pkcs11_tool(*words: str | Path) -> Callable[[Team, Gpg, str], Result]:
    """OpenSC's PKCS#11, which has the card's signing key behind a PIN of its own, so on a token of its own."""
    return lambda team, gpg, letter: team.run(team.two, "env", "OPENSC_DRIVER=openpgp", "pkcs11-tool", *words)


def decrypts(team: Team, gpg: Gpg, letter: str) -> Result:
    """What OpenSC has decrypted must be what was encrypted to the card's key."""
    result = pkcs11_tool(*USER, "--decrypt", "--id", "02", "-m", "RSA-PKCS", "-i", SECRET, "-o", "/tmp/open")(
        team, gpg, letter
    )
    same = result.code == 0 and team.two.run(["cat", "/tmp/open"]).out == SAID
    return replace(result, code=int(not same))


SECRET, SAID = "/tmp/secret.rsa", "What only the card may read."
USER: Command = ["--login", "--pin", OPENPGP_PIN]
SIGNER: Command = ["--token-label", "OpenPGP card (User PIN (sig))"]
RSA: Command = ["-m", "SHA256-RSA-PKCS", "-i", "/etc/hostname", "-o", "/tmp/signature"]
OPENPGP: dict[str, tuple[Callable[[Team, Gpg, str], Result], list[str]]] = {
    "gpg signs": (lambda team, gpg, letter: gpg.sign(letter), ["verify", "sign:SIG"]),
    "gpg gives a PIN": (lambda team, gpg, letter: gpg.sign(letter), ["sign:SIG", "verify"]),
    "gpg decrypts": (lambda team, gpg, letter: gpg.run("--decrypt", stdin=letter), ["verify", "decrypt"]),
    "gpg writes": (name, ["verify", "write"]),
    "scdaemon changes the PIN": (scd("PASSWD 1"), ["verify", "manage-pin:81"]),
    "scdaemon changes the admin PIN": (scd("PASSWD 3"), ["verify", "manage-pin:83"]),
    "scdaemon writes": (scd("SETATTR PUBKEY-URL https://example.org/key"), ["verify", "write:5F50"]),
    "scdaemon generates": (scd("GENKEY --force 3"), ["verify", "write", "generate:AUT"]),
    "openpgp-tool reads": (openpgp_tool("--card-info"), ["read"]),
    "openpgp-tool gives a PIN": (openpgp_tool("--verify", "CHV1", "--pin", OPENPGP_PIN), ["read", "verify"]),
    "PKCS#11 reads": (pkcs11_tool("--read-object", "--type", "pubkey", "--id", "02", "-o", "/tmp/key"), ["read"]),
    "PKCS#11 gives a PIN": (pkcs11_tool(*SIGNER, *USER, "--sign", "--id", "01", *RSA), ["sign:SIG", "verify"]),
    "PKCS#11 signs": (pkcs11_tool(*SIGNER, *USER, "--sign", "--id", "01", *RSA), ["verify", "sign:SIG"]),
    "PKCS#11 authenticates": (pkcs11_tool(*USER, "--sign", "--id", "03", *RSA), ["verify", "authenticate"]),
    "PKCS#11 decrypts": (decrypts, ["verify", "decrypt"]),
    "PKCS#11 changes the PIN": (
        pkcs11_tool(*USER, "--change-pin", "--new-pin", OPENPGP_PIN), ["verify", "manage-pin:81"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OPENPGP)
def test_gpg_and_openpgp_tool_get_on_with_each_operation_denied_and_allowed(
    gpg: tuple[SignalledTeam, Gpg, str], what: str
) -> None:
    team, home, letter = gpg
    run, needs = OPENPGP[what]
    for may, works in ((needs, True), (needs[:-1] or ["control"], False)):
        home.stop()
        team.now(f'[[allow]]\nwho = "ssh:two"\nmay = {may}\n')
        result = run(team, home, letter)
        assert (result.code == 0) is works, (may, result)


@pytest.mark.parametrize("pin", ["host", "pinpad"])
def test_openscs_pkcs11_uses_a_pinpad_with_an_openpgp_card(gpg: tuple[SignalledTeam, Gpg, str], pin: str) -> None:
    """It gives no PIN: that is put into its command at the host, as far as the rule goes and no farther."""
    team, home, _ = gpg
    home.stop()
    asking, secret = team.host.home / "pinentry", team.host.home / "pin"
    secret.write_text(OPENPGP_PIN)
    secret.chmod(0o600)
    asking.write_text(f"#!/bin/sh\necho OK\nwhile read -r word rest; do\n"
                      f"[ $word = GETPIN ] && echo D {OPENPGP_PIN}; echo OK\ndone\n")  # fmt: skip
    asking.chmod(0o700)
    more = f'pin-from = "file:{secret}"\n' if pin == "host" else ""
    team.now(f'pinentry = "{asking}"\nask-with = ["pinentry"]\n'
             f'[[allow]]\nwho = "ssh:two"\nmay = ["read", "sign:SIG"]\npin = "{pin}"\n{more}')  # fmt: skip
    sign = ["--login", "--sign", *RSA]
    pkcs11_tool(*SIGNER, *sign, "--id", "01")(team, home, "").check()
    assert pkcs11_tool(*sign, "--id", "03")(team, home, "").code > 0


def test_a_command_to_the_reader_is_the_readers_to_refuse_where_it_is_allowed(
    gpg: tuple[SignalledTeam, Gpg, str],
) -> None:
    team, _, _ = gpg
    for may, said in (("control", "Feature not supported"), ("read", "Access denied")):
        team.now(f'[[allow]]\nwho = "ssh:two"\nmay = "{may}"\n')
        result = team.run(team.two, sys.executable, "-c", _CONTROL)
        assert (result.code, said in result.err) == (1, True), (may, result)


def test_gpg_takes_a_card_back_to_its_beginning_only_where_it_may(gpg: tuple[SignalledTeam, Gpg, str]) -> None:
    """The card wants both PINs blocked, which a guest cannot do: the host has done it. gpg says nothing of errors here.

    Runs last: the keys are gone.
    """
    team, home, _ = gpg
    team.now("")
    local = Ferry(team.host, ["attach", team.readers])
    wrong = [word for pin in ("81", "83") for _ in range(3) for word in ("-s", f"002000{pin}08" + "39" * 8)]
    select = ["opensc-tool", "-c", "default", "-s", "00A4040006D27600012401"]
    assert team.host.run([*select, *wrong], local.env).check().out.count("SW1=0x69, SW2=0x83") == 2
    for may, keys in ((["verify"], True), (["verify", "administer"], False)):
        home.stop()
        team.now(f'[[allow]]\nwho = "ssh:two"\nmay = {may}\n')
        edit(team, home, "admin\nfactory-reset\ny\nyes\nquit\n").check()
        home.stop()
        status = home.card_status().check().out
        assert ("Signature key ....: [none]" not in status) is keys, (may, status)


def test_nothing_that_acts_is_done_while_the_disk_of_the_audit_is_full(team: WatchedTeam) -> None:
    team.now('audit = "required"')
    assert team.apdus(team.two, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]
    full = team.audit.parent / "full"
    team.host.run(["dd", "if=/dev/zero", f"of={full}", "bs=1k"])
    try:
        answers = team.apdus(team.two, SELECT, *[VERIFY] * 20, SIGN, SELECT)  # some lines find room in the last page
        assert answers[-3:] == ["6982", "6982", "9000"], "reading goes on"
    finally:
        team.host.run(["rm", full]).check()
    assert team.apdus(team.two, SELECT, VERIFY, SIGN) == ["9000", "9000", "9000"]
    assert "none of them changed" in cardferry(team.host, "audit", "verify", "--file", str(team.audit)).check().out
    assert any(entry["event"] == "missing" for entry in team.audited()), "what could not be written is told"


def test_the_journal_gets_what_the_file_gets(team: WatchedTeam) -> None:
    team.now("")
    team.apdus(team.two, SELECT, VERIFY, SIGN)
    show = ["journalctl", "--no-pager", "-t", "cardferry", "-p", "6..6", "-o", "cat"]
    wait_until(lambda: "authenticated with PIV 9A" in team.host.run(show).out, "the journal has it")
    line = [each for each in team.host.run(show).out.splitlines() if "authenticated with PIV 9A" in each][-1]
    said = json.loads(line)
    assert (said["principal"], said["what"]) == (
        "ssh:two", "authenticated with PIV 9A, CN=cardferry,OU=PIV Authentication"
    )  # fmt: skip
    assert line in team.host.outside(team.audit).read_text()
