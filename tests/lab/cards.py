"""Cards for the readers of a computer, each a process of its own.

A card is no part of the computer: its process sees the computer's network only, so that cards work where
cardferry (and this project's Python) is hidden.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.lab import process
from tests.lab.computer import REPOSITORY
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running

#: The built-in PIV card's PIN; the OpenPGP card's user and admin PIN.
PIV_PIN = "123456"
OPENPGP_PIN, OPENPGP_ADMIN_PIN = "123456", "12345678"
#: The CAC card takes any PIN: its database has none.
CAC_PIN = "1234"
_CAC_NAMES = ("authentication", "signature", "encryption")


class CardInReader:
    """A card that sits in a virtual reader, until `remove`."""

    def __init__(self, module: str, pcscd: Pcscd, slot: int, arguments: tuple[str, ...] = ()) -> None:
        self._command = (sys.executable, "-m", f"tests.lab.{module}", f"--port={pcscd.port(slot)}", *arguments)
        self._pcscd = pcscd
        self.slot = slot
        self.reader = pcscd.reader(slot)
        self.process: Running
        self.insert()

    def insert(self) -> None:
        """Put it in (again) and wait until pcscd has noticed."""
        self.process = self._pcscd.computer.popen(
            self._command, env={"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}, mounts=False
        )
        self.process.wait_for("^inserted$")
        self._pcscd.wait_for_card(self.slot)

    def remove(self) -> None:
        """Take it out and wait until pcscd has noticed."""
        self.process.stop()
        self._pcscd.wait_for_no_card(self.slot)


def fake_card(pcscd: Pcscd, slot: int = 0, delay: float = 0.0, atr: str = "") -> CardInReader:
    """A card without meaning; see `card_fake`. ``delay`` in s for every APDU."""
    return CardInReader("card_fake", pcscd, slot, (f"--delay={delay}", *([f"--atr={atr}"] if atr else [])))


def piv_card(pcscd: Pcscd, slot: int = 0, stay: bool = False, delay: float = 0.0) -> CardInReader:
    """The built-in PIV card, personalised; with ``stay`` it is in its reader again when that was pulled out.

    Args:
        delay: s that it takes for every APDU.
    """
    return CardInReader("card_piv", pcscd, slot, (f"--delay={delay}", *(("--stay",) if stay else ())))


def openpgp_card(pcscd: Pcscd, slot: int = 0) -> CardInReader:
    """jcecard's OpenPGP card, empty."""
    return CardInReader("card_openpgp", pcscd, slot, (f"--storage={pcscd.computer.folder / 'openpgp'}",))


def cac_card(pcscd: Pcscd, slot: int = 0) -> CardInReader:
    """libcacard's CAC card with three fresh self-signed certificates."""
    database = pcscd.computer.folder / "cac"
    make_certificates(database)
    return CardInReader("card_cac", pcscd, slot, (f"--database={database}", *_CAC_NAMES))


def make_certificates(database: Path) -> None:
    """An NSS database with the keys and certificates of a CAC card."""
    database.mkdir()
    noise = database / "noise"
    noise.write_bytes(os.urandom(64))
    base = ["certutil", "-d", f"sql:{database}"]
    process.run([*base, "-N", "--empty-password"]).check()
    for number, name in enumerate(_CAC_NAMES, 1):
        words = ["-S", "-s", f"CN={name}", "-n", name, "-x", "-t", "CT,CT,CT", "-k", "rsa", "-g", "2048"]
        process.run([*base, *words, "-m", str(number), "-z", str(noise)]).check()
