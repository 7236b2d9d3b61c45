"""The lab keeps its own promises; otherwise nothing that is shown in it would mean anything."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY, SECOND_UID, SECOND_USER
from tests.lab.delay import DelayedPort
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import wait_until

pytestmark = pytest.mark.alone

_ECHO = """
import socket, sys

s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 7007)); s.listen(); print("listening", flush=True)
while True:
    c, _ = s.accept()
    try:
        while data := c.recv(65536): c.sendall(data)
    except ConnectionResetError: pass
"""
_ROUND_TRIPS = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.setsockopt(6, 1, 1); s.settimeout(2)
def trip(data):
    begin = time.monotonic(); s.sendall(data); got = b""
    while len(got) < len(data):
        part = s.recv(65536)
        if not part: sys.exit("closed")
        got += part
    assert got == data
    return time.monotonic() - begin
trip(b"0")
print(min(trip(bytes([n])) for n in range(5)), trip(bytes(range(256)) * 4000), flush=True)
for line in sys.stdin:
    try: trip(b"x"); print("answer", flush=True)
    except TimeoutError: print("silence", flush=True)
    except OSError as error: print(type(error).__name__, flush=True); break
"""


def test_computers_share_neither_files_nor_network_names(lab: Lab) -> None:
    one, two = lab.computer("one"), lab.computer("two")
    one.run(["sh", "-c", "echo > /run/mark; echo > /tmp/mark; echo > ~/mark"]).check()
    assert two.run(["sh", "-c", "ls /run/mark /tmp/mark ~/mark"]).code != 0
    assert one.run(["hostname"]).out == "one\n"
    assert two.run(["sh", "-c", "cd ~ && pwd"]).out.strip() == str(two.home)


def test_a_computers_accounts_are_its_own(lab: Lab) -> None:
    listing = lab.computer("one").run(["cat", "/etc/passwd"]).check().out
    accounts = {name: int(uid) for name, _, uid, _ in (line.split(":", 3) for line in listing.splitlines())}
    assert accounts[SECOND_USER] == SECOND_UID
    assert {uid for uid in accounts.values() if 1000 <= uid != 65534} <= {SECOND_UID, os.geteuid()}


def test_hidden_cardferry_is_gone_from_one_computer_only(lab: Lab) -> None:
    one, two = lab.computer("one"), lab.computer("two")
    assert two.run(["test", "-x", CARDFERRY]).code == 0
    one.hide_cardferry()
    assert one.run(["test", "-e", CARDFERRY]).code != 0
    assert one.run([PLAIN_PYTHON, "-c", "import cardferry"]).code != 0
    assert two.run(["test", "-x", CARDFERRY]).code == 0


def test_nothing_outlives_its_computer(lab: Lab) -> None:
    computer = lab.computer("one")
    daemon = computer.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"]).check()
    pid = int(daemon.out)
    os.kill(pid, 0)
    computer.close()
    wait_until(lambda: not Path(f"/proc/{pid}/ns").exists() or not list_namespaces(pid), "the daemon is dead")


def list_namespaces(pid: int) -> bool:
    """Whether a process still has namespaces: a zombie has none."""
    try:
        return bool(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return False


def test_relay_delays_counts_swallows_and_cuts(lab: Lab) -> None:
    near, far = lab.computer("near"), lab.computer("far")
    far.popen([PLAIN_PYTHON, "-c", _ECHO]).wait_for("listening")
    port = DelayedPort(near, far, one_way=0.03, port=7007)
    client = near.popen([PLAIN_PYTHON, "-c", _ROUND_TRIPS, port.address, str(port.port)], stdin=True)
    small, large = (float(word) for word in client.wait_for(r"^\S+ \S+$").group().split())
    assert small >= 0.06
    assert large >= 0.06, "a megabyte came back whole and in order"
    traffic = port.traffic()
    assert (traffic.connections, traffic.up, traffic.down) == (1, 1024006, 1024006)
    assert traffic.turns >= 7
    client.write("go\n")
    client.wait_for("^answer$")
    port.black()
    client.write("go\n")
    client.wait_for("^silence$")
    port.light()
    port.cut()
    client.write("go\n")
    client.wait_for("^(ConnectionResetError|BrokenPipeError)$")
    again = near.popen([PLAIN_PYTHON, "-c", _ROUND_TRIPS, port.address, str(port.port)], stdin=True)
    again.wait_for(r"^\S+ \S+$")


def test_unplugged_computer_says_nothing(lab: Lab) -> None:
    one, two = lab.computer("one"), lab.computer("two")
    two.popen([PLAIN_PYTHON, "-c", _ECHO]).wait_for("listening")
    client = one.popen([PLAIN_PYTHON, "-c", _ROUND_TRIPS, two.address, "7007"], stdin=True)
    client.wait_for(r"^\S+ \S+$")
    lab.network.unplug(two)
    client.write("go\n")
    client.wait_for("^silence$")
    assert client.code is None


def test_cards_come_and_go_in_any_of_many_readers(lab: Lab) -> None:
    pcscd = Pcscd(lab.computer("host"), readers=6)
    cards = [fake_card(pcscd, slot) for slot in (0, 3, 5)]
    readers = pcscd.computer.pcsc("list")["readers"]
    assert [reader["name"] for reader in readers] == [pcscd.reader(slot) for slot in range(6)]
    assert [bool(reader["atr"]) for reader in readers] == [True, False, False, True, False, True]
    cards[1].remove()
    answer = pcscd.computer.pcsc(f"apdu\t{pcscd.reader(5)}\t80100003\t80200000")
    assert answer["answers"] == ["0001029000", "000000029000"]
    cards[1].insert()


def test_slow_card_takes_its_time(lab: Lab) -> None:
    pcscd = Pcscd(lab.computer("host"))
    fake_card(pcscd, delay=0.02)
    durations = pcscd.computer.pcsc("transmit\tVirtual PCD 00 00\t--count\t5")["durations"]
    assert min(durations) >= 0.02


def test_built_in_card_is_a_piv_card_to_opensc(lab: Lab) -> None:
    pcscd = Pcscd(lab.computer("host"))
    piv_card(pcscd)
    named = pcscd.computer.run(["opensc-tool", "-n"]).check()
    assert "Personal Identity Verification" in named.all or "PIV" in named.all


def test_vpcd_costs_no_delayed_acknowledgement(lab: Lab) -> None:
    """Were it there, every one of these APDUs would take 40 ms; most being quick proves that it is not."""
    pcscd = Pcscd(lab.computer("host"))
    fake_card(pcscd)
    begin = time.monotonic()
    answer = pcscd.computer.pcsc("transmit\tVirtual PCD 00 00\t--count\t200")
    assert answer["count"] == 200
    assert sorted(answer["durations"])[100] < 0.03, f"{time.monotonic() - begin} s in all"


def test_pcscd_that_is_stopped_and_started_serves_again(lab: Lab) -> None:
    pcscd = Pcscd(lab.computer("host"))
    pcscd.stop()
    assert pcscd.computer.pcsc("list")["error"] == "0x8010001d"
    pcscd.start()
    assert len(pcscd.computer.pcsc("list")["readers"]) == 2


def test_host_name_does_not_leak_out(lab: Lab) -> None:
    before = socket.gethostname()
    lab.computer("somebody")
    assert socket.gethostname() == before
