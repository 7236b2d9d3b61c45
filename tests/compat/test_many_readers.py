"""More readers than a program can see: a real pcscd that has them, and programs of a release with and without room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat import foreign
from tests.compat.deployments import run_pcscd
from tests.compat.foreign import CLIENTS, SERVERS, Release
from tests.lab import Computer, Lab
from tests.lab.ferry import Ferry
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import wait_until

pytestmark = pytest.mark.usefixtures("releases")

SID = SERVERS[-1]
READERS = 20
#: What a libpcsclite up to 2.4 has room for.
ROOM = 16


@pytest.fixture(scope="module")
def pcscd(releases: None) -> Iterator[Pcscd]:
    """Twenty readers, which only the newest pcscd can have."""
    with Lab() as lab:
        pcscd = run_pcscd(lab.computer("machine"), SID, READERS)
        wait_until(lambda: len(seen(pcscd.computer, SID)) == READERS, "pcscd has all readers")
        yield pcscd


def seen(computer: Computer, release: Release, ferry: Ferry | None = None) -> list[str]:
    """The readers that a release's pcsc_scan lists; from pcscd itself when no ferry is named."""
    done = computer.run(foreign.command(release, "usr/bin/pcsc_scan", "-r"), ferry.env if ferry else None)
    return [line.partition(": ")[2] for line in done.out.splitlines() if line[:1].isdigit()]


def attach(pcscd: Pcscd, *options: str) -> Ferry:
    return Ferry(pcscd.computer, ["attach", f"pcscd:{SOCKET}", *options])


def test_old_programs_see_the_first_sixteen_new_ones_all(pcscd: Pcscd) -> None:
    names = seen(pcscd.computer, SID)
    ferry = attach(pcscd)
    for release in CLIENTS:
        room = READERS if release is SID else ROOM
        assert seen(pcscd.computer, release, ferry) == names[:room], release
    ferry.stop()


def test_named_readers_come_first(pcscd: Pcscd) -> None:
    names = seen(pcscd.computer, SID)
    ferry = attach(pcscd, "--reader", pcscd.reader(19), "--reader", "Virtual PCD * 00 01", "--reader", "*")
    odd = [name for name in names if name.endswith("01") and name not in (pcscd.reader(19), pcscd.reader(1))]
    # the first reader's name has no number: the second pattern does not fit it
    expected = [pcscd.reader(19), *odd, *(name for name in names if name.endswith("00")), pcscd.reader(1)]
    assert sorted(expected) == sorted(names)
    for release in (CLIENTS[0], CLIENTS[-1]):
        first = seen(pcscd.computer, release, ferry)
        assert len(first) == ROOM
        assert first[:10] == expected[:10]
    ferry.stop()


def test_only_named_readers_are_there(pcscd: Pcscd) -> None:
    ferry = attach(pcscd, "--reader", "virtual pcd 3 *")
    for release in CLIENTS:
        assert seen(pcscd.computer, release, ferry) == [pcscd.reader(6), pcscd.reader(7)]
    ferry.stop()
