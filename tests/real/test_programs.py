"""Unmodified programs on one computer, the card on another, cardferry on one side only and absent from the other.

Each test runs twice: through ``attach`` (cardferry on the guest; the host has only pcscd and sshd) and through
``share`` (cardferry on the host; the guest has only its programs and sshd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import CAC_PIN, PIV_PIN, cac_card, openpgp_card, piv_card
from tests.lab.computer import CARDFERRY, REPOSITORY
from tests.lab.ferry import Ferry, attach, share
from tests.lab.gpg import Gpg
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Command
from tests.lab.recipe import Recipe

PIV, OPENPGP, CAC = 0, 1, 2
_DIRECTIONS: dict[str, Callable[[Recipe], Ferry]] = {"attach": attach, "share": share}


@dataclass(frozen=True, slots=True)
class Crossing:
    """A card on the host, a program on the guest, cardferry between them.

    Attributes:
        recipe: the two computers.
        ferry: the running command.
        without: the computer that has no cardferry.
    """

    recipe: Recipe
    ferry: Ferry
    without: Computer

    @property
    def guest(self) -> Computer:
        """Where programs run."""
        return self.recipe.guest

    @property
    def env(self) -> dict[str, str]:
        """What leads programs to the card."""
        return self.ferry.env

    def reader(self, slot: int) -> str:
        """A reader's name."""
        return self.recipe.pcscd.reader(slot)


@pytest.fixture(params=list(_DIRECTIONS), scope="module")
def crossing(request: pytest.FixtureRequest) -> Iterator[Crossing]:
    """A host with three cards in four readers, ferried to the guest."""
    with Lab() as lab:
        recipe = Recipe(lab, readers=4)
        piv_card(recipe.pcscd, PIV)
        openpgp_card(recipe.pcscd, OPENPGP)
        cac_card(recipe.pcscd, CAC)
        without = recipe.host if request.param == "attach" else recipe.guest
        without.hide_cardferry()
        yield Crossing(recipe, _DIRECTIONS[request.param](recipe), without)


def slot_of(crossing: Crossing, reader: str) -> str:
    """The PKCS#11 slot of a reader, as ``pkcs11-tool`` numbers it."""
    for line in crossing.guest.run(["pkcs11-tool", "-L"], crossing.env).check().out.splitlines():
        if line.startswith("Slot ") and reader in line:
            return line.split("(")[1].split(")")[0]
    raise AssertionError(f"no slot for {reader}")


def sign_and_verify(crossing: Crossing, reader: str, mechanism: str, key: str, pin: str) -> None:
    """A PKCS#11 signature made over the ferry is good to openssl."""
    guest = crossing.guest
    work = guest.home / f"signature-{key}"
    work.mkdir()
    letter, signature = work / "letter", work / "signature"
    letter.write_text("Dear card, please sign this.\n")
    slot = ["pkcs11-tool", "--slot", slot_of(crossing, reader)]
    certificate: list[str | Path] = ["--read-object", "--type", "cert", "--id", key, "-o", work / "cert.der"]
    read: Command = [*slot, *certificate]
    guest.run(read, crossing.env).check()
    guest.run(
        ["openssl", "x509", "-inform", "der", "-in", work / "cert.der", "-pubkey", "-noout", "-out", work / "key.pem"]
    ).check()
    form = ["--signature-format", "openssl"] if mechanism.startswith("ECDSA") else []
    sign: Command = [
        *slot,
        "--login",
        "--pin",
        pin,
        "--sign",
        "--id",
        key,
        "-m",
        mechanism,
        *form,
        "-i",
        letter,
        "-o",
        signature,
    ]
    guest.run(sign, crossing.env).check()
    verify: Command = ["openssl", "dgst", "-sha256", "-verify", work / "key.pem", "-signature", signature, letter]
    assert "Verified OK" in guest.run(verify).check().out
    letter.write_text("Dear card, please sign something else.\n")
    assert guest.run(verify).code != 0


def test_the_other_side_has_no_cardferry(crossing: Crossing) -> None:
    assert crossing.without.run(["test", "-e", CARDFERRY]).code != 0
    assert "No module named" in crossing.without.run([PLAIN_PYTHON, "-c", "import cardferry"]).err
    assert not crossing.without.run(["ls", "-A", REPOSITORY / "src"]).out


def test_opensc_tool_lists_readers_and_atr(crossing: Crossing) -> None:
    here = crossing.recipe.host.run(["opensc-tool", "-l"]).check()
    there = crossing.guest.run(["opensc-tool", "-l"], crossing.env).check()
    assert there.out == here.out
    for reader in range(3):
        here = crossing.recipe.host.run(["opensc-tool", "-r", str(reader), "-a"]).check()
        there = crossing.guest.run(["opensc-tool", "-r", str(reader), "-a"], crossing.env).check()
        assert there.out == here.out
        assert there.out.count(":") > 3


def test_pcsc_scan_sees_readers_and_cards(crossing: Crossing) -> None:
    scan = crossing.guest.popen(["pcsc_scan", "-n"], crossing.env)
    for slot in range(4):
        scan.wait_for(f"Reader {slot}: .*{crossing.reader(slot)}")
        scan.wait_for("Card state: .*Card (inserted|removed)")
    scan.stop()


def test_pkcs11_tool_lists_the_objects_of_the_piv_card(crossing: Crossing) -> None:
    slot = slot_of(crossing, crossing.reader(PIV))
    objects = crossing.guest.run(["pkcs11-tool", "--slot", slot, "-O"], crossing.env).check().out
    assert "Certificate for PIV Authentication" in objects
    assert "Certificate for Digital Signature" in objects


def test_piv_card_signs_through_pkcs11(crossing: Crossing) -> None:
    sign_and_verify(crossing, crossing.reader(PIV), "ECDSA-SHA256", "01", PIV_PIN)


def test_wrong_pin_is_refused_and_counted(crossing: Crossing) -> None:
    slot = slot_of(crossing, crossing.reader(PIV))
    refused = crossing.guest.run(["pkcs11-tool", "--slot", slot, "--login", "--pin", "999999", "-O"], crossing.env)
    assert refused.code != 0
    assert "CKR_PIN_INCORRECT" in refused.all
    crossing.guest.run(["pkcs11-tool", "--slot", slot, "--login", "--pin", PIV_PIN, "-O"], crossing.env).check()


def test_cac_card_lists_its_objects(crossing: Crossing) -> None:
    slot = slot_of(crossing, crossing.reader(CAC))
    objects = crossing.guest.run(["pkcs11-tool", "--slot", slot, "-O"], crossing.env).check().out
    assert "CAC ID Certificate" in objects
    assert "CN=authentication" in objects


def test_cac_card_signs_through_pkcs11(crossing: Crossing) -> None:
    sign_and_verify(crossing, crossing.reader(CAC), "SHA256-RSA-PKCS", "0001", CAC_PIN)


def test_openpgp_card_makes_its_keys_and_signs_with_gpg(crossing: Crossing) -> None:
    gpg = Gpg(crossing.guest, crossing.ferry.socket, crossing.reader(OPENPGP))
    assert "Application type .: OpenPGP" in gpg.card_status().check().out
    gpg.make_keys()
    before = gpg.signature_counter()
    assert before > 0, "the key's self-signatures were made by the card"
    signed = gpg.sign("Dear card, please sign this.\n").check().out
    assert "Good signature" in gpg.verify(signed).check().err
    assert gpg.verify(signed.replace("please", "do not")).code != 0
    assert gpg.signature_counter() == before + 1
    gpg.stop()


def test_yubico_piv_tool_makes_a_key_and_a_certificate(crossing: Crossing) -> None:
    tool = ["yubico-piv-tool", "-r", crossing.reader(PIV)]
    status = crossing.guest.run([*tool, "-a", "status"], crossing.env).check()
    assert "Slot 9a" in status.all
    made = crossing.guest.run([*tool, "-a", "generate", "-s", "9d", "-A", "ECCP256"], crossing.env).check()
    assert "BEGIN PUBLIC KEY" in made.out
