"""``attach --qemu``: the host's card in the USB reader of a real virtual machine, which knows nothing of cardferry."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.ferry import Ferry
from tests.lab.machine import Machine, missing
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import LabError, wait_until

pytestmark = pytest.mark.timeout(300)


class Stage:
    """A computer with a PIV card in a real pcscd's reader, and a machine that runs on it."""

    def __init__(self, lab: Lab) -> None:
        self.computer = lab.computer("computer")
        self.machine = Machine(self.computer)
        self.pcscd = Pcscd(self.computer)
        self.card = piv_card(self.pcscd)
        self.ferry = self.attach()
        self.machine.wait_until_up()

    def attach(self) -> Ferry:
        """Show the card to the machine."""
        return Ferry(self.computer, ["attach", f"pcscd:{SOCKET}", "--qemu", str(self.machine.socket)])

    def wait_for_card(self, present: bool = True) -> None:
        """Wait until the machine's pcscd has noticed."""
        wanted = "Yes" if present else "No "

        def noticed() -> bool:
            return re.search(rf"^0 +{wanted}", self.machine.run("opensc-tool -l").out, re.MULTILINE) is not None

        wait_until(noticed, f"card in the machine: {present}", timeout=30)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if missing():
        reason = "not run, missing: " + "; ".join(missing())
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with Lab() as lab:
        stage = Stage(lab)
        stage.wait_for_card()
        yield stage


def test_the_machine_sees_a_reader_and_the_card(stage: Stage) -> None:
    """With the card's historical bytes; the rest is that of a card of T=0, which is what QEMU's reader knows."""
    here = stage.computer.run(["opensc-tool", "-a"]).check().out
    there = stage.machine.run("opensc-tool -a").check().out
    historical = ":80:fb:a0:00:00:03:08:00:00:10:00:01:00"
    assert f"3b:9d:13:81:31:fe:15{historical}" in here
    assert f"3b:8d:40:8f{historical}" in there
    assert "Personal Identity Verification Card" in stage.machine.run("opensc-tool -n").check().out


def test_the_card_signs_in_the_machine(stage: Stage) -> None:
    tool = "pkcs11-tool --module /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
    steps = (
        "echo 'Dear card, please sign this.' >/tmp/letter",
        f"{tool} --read-object --type cert --id 01 -o /tmp/cert.der",
        "openssl x509 -inform der -in /tmp/cert.der -pubkey -noout -out /tmp/key.pem",
        f"{tool} --login --pin {PIV_PIN} --sign --id 01 -m ECDSA-SHA256 --signature-format openssl"
        " -i /tmp/letter -o /tmp/signature",
    )
    for step in steps:
        stage.machine.run(step).check()
    verify = "openssl dgst -sha256 -verify /tmp/key.pem -signature /tmp/signature /tmp/letter"
    assert "Verified OK" in stage.machine.run(verify).check().out


def test_a_card_that_is_taken_out_is_out_in_the_machine(stage: Stage) -> None:
    stage.card.remove()
    stage.wait_for_card(present=False)
    stage.card.insert()
    stage.wait_for_card()


def test_the_machine_waits_for_a_program_that_has_the_card(stage: Stage) -> None:
    """Longer than a driver waits for a card that does not say how slow it is: 3 s."""
    words: list[str | Path] = [PLAIN_PYTHON, PCSC_CLIENT, "hold", stage.pcscd.reader()]
    held = stage.computer.popen(words, stage.ferry.env, stdin=True)
    held.wait_for("held")
    stage.machine.start("opensc-tool -n")
    with pytest.raises(LabError):
        stage.machine.finish(timeout=8)
    held.write("go\n")
    assert "Personal Identity Verification Card" in stage.machine.finish().check().out


def test_the_card_is_out_without_cardferry_and_back_with_it(stage: Stage) -> None:
    stage.ferry.stop()
    stage.wait_for_card(present=False)
    stage.ferry = stage.attach()
    stage.wait_for_card()
    assert "Personal Identity Verification Card" in stage.machine.run("opensc-tool -n").check().out
