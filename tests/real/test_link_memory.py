"""What a card has said before, while a program on the host itself changes the card: old, or new, or told of a reset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cardferry.link.guest_session import Counters
from tests.lab import Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import Computer
from tests.lab.ferry import attach
from tests.lab.link import all_running, install_cardferry
from tests.lab.process import Result, wait_until
from tests.lab.recipe import Recipe

pytestmark = pytest.mark.real

_READ = ["pkcs15-tool", "--read-certificate", "03"]
_SIGN = [
    "pkcs11-tool",
    "--login",
    "--pin",
    PIV_PIN,
    "--sign",
    "--id",
    "01",
    "-m",
    "ECDSA-SHA256",
    "-i",
    "/etc/hostname",
]


def write(host: Computer, number: int) -> None:
    """Another certificate, by a program of the host's own, which leaves with a reset."""
    tool = ["yubico-piv-tool", "-r", "Virtual", "-a", "import-certificate", "-s", "9d", "-i", f"{number % 2}.pem"]
    host.run(tool).check()


def certificates(host: Computer) -> list[str]:
    """Two certificates of one key, as programs show them."""
    shown = []
    for number in range(2):
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        host.run([*words, "-keyout", "key.pem", "-subj", f"/CN=number {number}", "-out", f"{number}.pem"]).check()
        write(host, number)
        shown.append(host.run(_READ).check().out)
    return shown


@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_certificate_is_written_while_two_guests_read_and_sign(rounds: int) -> None:
    with Lab() as lab:
        recipe = Recipe(lab)
        piv_card(recipe.pcscd)
        install_cardferry(recipe.host)
        shown = certificates(recipe.host)
        sockets: list[Path] = [recipe.new_socket() for _ in range(2)]
        for socket in sockets:
            attach(recipe, "--socket", str(socket))

        def run(socket: Path, words: list[str]) -> Result:
            return recipe.guest.run(words, {"PCSCLITE_CSOCK_NAME": str(socket)}, timeout=60)

        for socket in (*sockets, *sockets):
            run(socket, _READ).check()
            run(socket, _SIGN).check()
        told = 0
        for number in range(rounds):
            with ThreadPoolExecutor(4) as pool:
                writing = pool.submit(write, recipe.host, number)
                reading = [pool.submit(run, socket, _READ) for socket in sockets]
                signing = pool.submit(run, sockets[0], _SIGN)
                writing.result()
                for result in (one.result() for one in reading):
                    assert result.code or result.out in shown, result
                    told += result.code != 0
                told += signing.result().code != 0
            for socket in sockets:
                results = [run(socket, _READ) for _ in range(3)]
                assert results[-1].check().out == shown[number % 2]
            run(sockets[0], _SIGN).check()
        believed, refuted = counted(recipe.guest)
        assert believed > 0
        print(f"{rounds} rounds: {believed} believed, {refuted} refuted, {told} programs were told of a reset")
        assert told <= rounds


def test_a_card_exchanged_for_one_with_the_same_atr_has_said_nothing() -> None:
    with Lab() as lab:
        recipe = Recipe(lab)
        card = piv_card(recipe.pcscd)
        install_cardferry(recipe.host)
        attach(recipe, "--socket", str(socket := recipe.new_socket()))
        read, env = ["pkcs15-tool", "--read-certificate", "01"], {"PCSCLITE_CSOCK_NAME": str(socket)}
        first = [recipe.guest.run(read, env).check().out for _ in range(2)]
        assert first[0] == first[1]
        wait_until(
            lambda: confirmed(recipe.guest) == counted(recipe.guest)[0] > 0, "all that was believed is carried out"
        )
        card.remove()
        card.insert()
        second = recipe.guest.run(read, env).check().out
        assert second != first[0]
        assert second == recipe.host.run(read).check().out
        assert counted(recipe.guest)[1] == 0


def counters(guest: Computer) -> list[Counters]:
    """Of all links there."""
    return [link.link.counters for one in all_running(guest) for link in one.links if link.link is not None]


def counted(guest: Computer) -> tuple[int, int]:
    """Commands that were believed and refuted."""
    return sum(one.believed for one in counters(guest)), sum(one.refuted for one in counters(guest))


def confirmed(guest: Computer) -> int:
    """Commands that were believed, and found to be right."""
    return sum(one.confirmed for one in counters(guest))
