"""``attach --native``: the host's cards in the readers of a guest's own pcscd, and another guest beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.report import ATR, EXTENDED, INSERTION, SIGNATURE, WORKS, installed_version, seen_without_socket
from tests.lab import Lab
from tests.lab.cards import PIV_PIN, fake_card, piv_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, Computer
from tests.lab.ferry import Ferry, attach, over
from tests.lab.link import install_cardferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Command, Running, wait_until
from tests.lab.recipe import Recipe

FAKE, PIV = 0, 1
#: Of `tests.lab.card_fake`: how often it was reset.
RESETS = "80500000"
#: Cells of the row in ``docs/compatibility.md``.
SEEN: dict[str, str] = {}


class Native:
    """A host with two cards; a guest with a pcscd of its own that shows them, and another guest that attaches them.

    Attributes:
        guest: programs there know nothing of cardferry.
        local: its pcscd, with four virtual readers.
        other: another guest, linked as well; ``socket`` is for its programs.
    """

    def __init__(self, lab: Lab) -> None:
        self.recipe = Recipe(lab)
        install_cardferry(self.recipe.host)
        self.fake = fake_card(self.recipe.pcscd, FAKE)
        piv_card(self.recipe.pcscd, PIV)
        self.guest = self.recipe.guest
        self.local = Pcscd(self.guest, readers=4, name="Native")
        self.guest.holder.mount_bind(self.guest.folder / "reader.conf.d", "/etc/reader.conf.d")
        self.ferry = attach(self.recipe, "--native", "-v")
        self.other = lab.computer("other")
        config = self.recipe.host_sshd.config(self.other, "host")
        self.socket = Ferry(self.other, ["attach", "host", *over(config)]).socket
        for slot in (FAKE, PIV):
            self.local.wait_for_card(slot)

    @property
    def reader(self) -> str:
        """The fake card's, in the guest's pcscd."""
        return self.local.reader(FAKE)

    def client(self, *words: str) -> Running:
        """A program at the guest's pcscd."""
        return _client(self.guest, *words)

    def other_client(self, *words: str) -> Running:
        """A program of the other guest, at the fake card."""
        return _client(self.other, words[0], self.fake.reader, *words[1:], socket=self.socket)

    def apdus(self, *apdus: str) -> dict[str, Any]:
        """What the fake card answers to a program at the guest's pcscd."""
        return self.guest.pcsc("\t".join(("apdu", self.reader, *apdus)))


def _client(computer: Computer, *words: str, socket: Path | None = None) -> Running:
    env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words], env, stdin=True)


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    with Lab() as lab:
        yield Native(lab)


def test_readers_of_the_host_are_in_the_guests_own_pcscd(native: Native) -> None:
    there = native.recipe.host.pcsc("list")["readers"]
    here = native.guest.pcsc("list")["readers"]
    assert [one["atr"] for one in here] == [*(one["atr"] for one in there), "", ""]
    assert [one["name"] for one in here] == [native.local.reader(slot) for slot in range(4)]
    tool = native.guest.run(["opensc-tool", "-r", str(PIV), "-a"]).check().out
    assert tool.strip().replace(":", "") == there[PIV]["atr"]
    SEEN[ATR] = WORKS


def test_extended_commands_and_responses(native: Native) -> None:
    long = "80400000" + "000fa0" + "01" * 4000
    answers = native.apdus("80100fa0000000", long)["answers"]
    assert answers == [bytes(index & 0xFF for index in range(4000)).hex() + "9000", "00000fa7" + "0fa0" + "9000"]
    SEEN[EXTENDED] = WORKS


def test_piv_card_signs_for_a_program_at_the_guests_pcscd(native: Native) -> None:
    work = native.guest.home
    letter, signature = work / "letter", work / "signature"
    letter.write_text("Dear card, please sign this.\n")
    slots = native.guest.run(["pkcs11-tool", "-L"]).check().out
    found = re.search(rf"^Slot .*\((0x\w+)\): {native.local.reader(PIV)}$", slots, re.MULTILINE)
    assert found, slots
    tool: Command = ["pkcs11-tool", "--slot", found[1]]
    native.guest.run([*tool, "--read-object", "--type", "cert", "--id", "01", "-o", work / "cert.der"]).check()
    public: Command = ["openssl", "x509", "-inform", "der", "-in", work / "cert.der", "-pubkey", "-noout"]
    native.guest.run([*public, "-out", work / "key.pem"]).check()
    sign: Command = ["--login", "--pin", PIV_PIN, "--sign", "--id", "01", "-m", "ECDSA-SHA256"]
    native.guest.run([*tool, *sign, "--signature-format", "openssl", "-i", letter, "-o", signature]).check()
    verify: Command = ["openssl", "dgst", "-sha256", "-verify", work / "key.pem", "-signature", signature, letter]
    assert "Verified OK" in native.guest.run(verify).check().out
    SEEN[SIGNATURE] = WORKS


def test_a_card_that_is_taken_out_on_the_host_is_out_on_the_guest(native: Native) -> None:
    native.fake.remove()
    native.local.wait_for_no_card(FAKE)
    native.fake.insert()
    native.local.wait_for_card(FAKE)
    assert native.apdus("00a4040000")["answers"] == ["9000"], str(native.ferry.process)
    SEEN[INSERTION] = WORKS


def test_the_row_in_the_table_of_compatibility_is_what_was_seen_above() -> None:
    where = f"bookworm's pcscd {installed_version('pcscd')}"
    seen_without_socket("test_native_readers", where, f"vpcd {installed_version('vsmartcard-vpcd')}", SEEN)


def resets(native: Native) -> int:
    """How often the card was reset."""
    return int(native.apdus(RESETS)["answers"][0][:8], 16)


def test_a_reset_by_a_program_resets_the_card(native: Native) -> None:
    before = resets(native)
    held = native.client("hold", native.reader, "--reset")
    held.wait_for("held")
    held.write("go\n")
    held.wait_for('"answer": "9000"')
    assert resets(native) > before  # power that pcscd takes and gives back at once, for its own reasons, is another one


def test_no_guest_comes_between_the_commands_of_the_other_one(native: Native) -> None:
    """Neither into a transaction at the guest's own pcscd, which vpcd knows nothing of, nor into one of ours."""
    words = ["80200000", *["803000c8"] * 10, "80200000"]
    both = [native.client("apdu", native.reader, *words), native.other_client("apdu", *words)]
    for one in both:
        numbers = one.wait_for(r'"answers": \["(\w{8})9000", .*"(\w{8})9000"\]')
        assert int(numbers[2], 16) == int(numbers[1], 16) + len(words) - 1


def test_a_program_waits_for_the_other_guests_transaction(native: Native) -> None:
    held = native.other_client("hold", "--apdu", "80200000")
    held.wait_for("held")
    waiting = native.client("apdu", native.reader, "80200000")
    status: Command = [CARDFERRY, "status", "--json"]
    wait_until(lambda: "pcscd's virtual reader" in native.recipe.host.run(status).out, "it waits in the queue")
    held.write("go\n")
    before = held.wait_for(r'"answer": "(\w{8})9000"')
    after = waiting.wait_for(r'"answers": \["(\w{8})9000"\]')
    assert int(after[1], 16) == int(before[1], 16) + 1


def test_a_program_that_does_nothing_in_its_transaction_shares_the_card_meanwhile(native: Native) -> None:
    """After a second: vpcd does not tell that there is a transaction."""
    idle = native.client("hold", native.reader, "--first", "80200000")
    idle.wait_for("held")
    native.other_client("apdu", "80200000").wait_for(r'"answers": \["\w{8}9000"\]')
    idle.write("go\n")
    idle.wait_for(r'"answer": "9000"')


def test_a_reset_by_the_other_guest_is_another_insertion_for_programs(native: Native) -> None:
    """They believe that their PIN is verified; vpcd has no word for it that it is not."""
    mine = native.client("hold", native.reader, "--first", "80200000")
    mine.wait_for("held")
    other = native.other_client("hold", "--reset")
    other.wait_for("held")
    other.write("go\n")
    other.wait_for('"answer": "9000"')
    mine.write("go\n")
    mine.wait_for(r'"answer": "6f00"|"error": "0x80100069"')  # at its command, or already at the end of its transaction
    native.local.wait_for_no_card(FAKE)
    native.local.wait_for_card(FAKE)
    assert native.apdus("00a4040000")["answers"] == ["9000"], str(native.ferry.process)


def test_when_the_guests_pcscd_is_started_anew_the_cards_are_there_again(native: Native) -> None:
    native.local.stop()
    native.ferry.process.wait_for("cannot be reached: .*; it is tried again", stream="err")
    native.local.start()
    native.local.wait_for_card(FAKE)
    assert native.apdus("00a4040000")["answers"] == ["9000"], str(native.ferry.process)


def test_after_a_clean_end_the_readers_are_empty(native: Native) -> None:
    native.ferry.stop()
    for slot in (FAKE, PIV):
        native.local.wait_for_no_card(slot)
    assert native.guest.outside(SOCKET).is_socket()
