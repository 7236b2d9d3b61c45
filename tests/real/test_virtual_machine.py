"""``attach --qemu``: the host's card in the USB reader of a real virtual machine, which knows nothing of cardferry."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.report import ATR, EXTENDED, INSERTION, SIGNATURE, WORKS, installed_version, seen_without_socket
from tests.lab import Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.ferry import Ferry
from tests.lab.machine import Machine, missing
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import LabError, wait_until

pytestmark = pytest.mark.timeout(300)
#: Cells of the row in ``docs/compatibility.md``.
SEEN: dict[str, str] = {}
#: ``transmit HEX...`` sends each to the card in the first reader, and says what came of it.
_TRANSMIT = """\
#include <stdio.h>
#include <string.h>
long SCardEstablishContext(unsigned long, void *, void *, long *);
long SCardListReaders(long, char *, char *, unsigned long *);
long SCardConnect(long, char *, unsigned long, unsigned long, long *, unsigned long *);
long SCardTransmit(long, void *, unsigned char *, unsigned long, void *, unsigned char *, unsigned long *);
int main(int count, char **words) {
    long context, card;
    char readers[1024];
    unsigned long size = sizeof readers, protocol, request[2];
    SCardEstablishContext(2, 0, 0, &context);
    SCardListReaders(context, 0, readers, &size);
    if (SCardConnect(context, readers, 2, 3, &card, &protocol)) return 1;
    for (int word = 1; word < count; word++) {
        static unsigned char apdu[66000], answer[66000];
        unsigned long length = strlen(words[word]) / 2, got = sizeof answer;
        for (unsigned long at = 0; at < length; at++) sscanf(words[word] + 2 * at, "%2hhx", apdu + at);
        request[0] = protocol, request[1] = sizeof request;
        long code = SCardTransmit(card, request, apdu, length, 0, answer, &got);
        printf("T=%lu %08lx", protocol - 1, code & 0xffffffff);
        for (unsigned long at = 0; !code && at < got; at++) printf(at ? "%02x" : " %02x", answer[at]);
        printf("\\n");
    }
}
"""


class Stage:
    """A computer with a PIV card in a real pcscd's reader, and a machine that runs on it."""

    def __init__(self, lab: Lab) -> None:
        self.computer = lab.computer("computer")
        transmit = self.computer.folder / "transmit"
        library = "/usr/lib/x86_64-linux-gnu/libpcsclite.so.1"
        subprocess.run(
            ["gcc", "-x", "c", "-o", transmit, "-", "-x", "none", library], input=_TRANSMIT, text=True, check=True
        )
        self.machine = Machine(self.computer, [transmit])
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
    SEEN[ATR] = WORKS


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
    SEEN[SIGNATURE] = WORKS


def test_a_long_certificate_goes_into_the_card_in_a_chain_and_comes_out_in_pieces(stage: Stage) -> None:
    """What has no place in T=0's 255 bytes."""
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/key -subj /CN=in-a-machine -days 30 -config /dev/null"
    )
    tool = "pkcs11-tool --module /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
    stage.machine.run(f"{make} -out /tmp/long.pem").check()
    stage.machine.run(
        f"echo -n {':'.join(f'0{digit}' for digit in (1, 2, 3, 4, 5, 6, 7, 8) * 3)} >/tmp/management"
    ).check()
    stage.machine.run(
        "PIV_EXT_AUTH_KEY=/tmp/management piv-tool -A M:9B:03 -C 9C -i /tmp/long.pem"
    )  # 0.23 fails at its end
    stage.machine.run(f"{tool} --read-object --type cert --id 02 -o /tmp/long.der").check()
    stage.machine.run("openssl x509 -in /tmp/long.pem -outform der -out /tmp/put.der").check()
    stage.machine.run("cmp /tmp/put.der /tmp/long.der").check()
    assert int(stage.machine.run("stat -c %s /tmp/put.der").check().out) > 512


def test_extended_commands_get_the_status_word_for_a_wrong_length_and_are_not_cut(stage: Stage) -> None:
    select, object_of_300 = "00a4040005a000000308", "00db3fff00012c" + "5c035fc10a" + "53820123" + "00" * 291
    get, with_length = "00cb3fff0000055c035fc1010000", "00cb3fff055c035fc10100"
    said = stage.machine.run(f"transmit {select} {get} {object_of_300} {with_length}").check().out.splitlines()
    first, *extended, short = said
    assert first.startswith("T=0 00000000 61"), "the machine's card is one of T=0"
    assert extended == ["T=0 00000000 6700"] * 2
    SEEN[EXTENDED] = "6700"
    assert short.startswith("T=0 00000000 61"), "a length at the end of a short one does no harm"


def test_a_card_that_is_taken_out_is_out_in_the_machine(stage: Stage) -> None:
    stage.card.remove()
    stage.wait_for_card(present=False)
    stage.card.insert()
    stage.wait_for_card()
    SEEN[INSERTION] = WORKS


def test_the_row_in_the_table_of_compatibility_is_what_was_seen_above(stage: Stage) -> None:
    linux = ".".join(stage.machine.run("uname -r").check().out.split(".")[:2])
    qemu = ".".join(installed_version("qemu-system-x86").split(".")[:2])
    versions = f"pcscd {installed_version('pcscd')}, libccid {installed_version('libccid')}, Linux {linux}"
    where, how = f"a virtual machine's {versions}", f"QEMU {qemu}, `ccid-card-passthru`"
    seen_without_socket("test_virtual_machine", where, how, SEEN)


def test_the_machine_waits_for_a_program_that_has_the_card(stage: Stage) -> None:
    """Longer than the 3 s that libccid waits where it knows nothing of a card."""
    words: list[str | Path] = [PLAIN_PYTHON, PCSC_CLIENT, "hold", stage.pcscd.reader()]
    held = stage.computer.popen(words, stage.ferry.env, stdin=True)
    held.wait_for("held")
    stage.machine.start("transmit 00a4040005a000000308")  # once: OpenSC would try again
    with pytest.raises(LabError):
        stage.machine.finish(timeout=8)
    held.write("go\n")
    assert stage.machine.finish().check().out.startswith("T=0 00000000 61")


def test_the_card_is_out_without_cardferry_and_back_with_it(stage: Stage) -> None:
    stage.ferry.stop()
    stage.wait_for_card(present=False)
    stage.ferry = stage.attach()
    stage.wait_for_card()
    assert "Personal Identity Verification Card" in stage.machine.run("opensc-tool -n").check().out
