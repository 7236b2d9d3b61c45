from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from bench.figures import Figures
from bench.lan import BESIDE, DIRECT, LINK, ONE_CARD, SSH, TLS, TWO_CARDS, UNIX
from bench.lan import table as near_table
from bench.remembered import OFF, Kept
from bench.remembered import table as remembered_table
from bench.wan_report import COLD, LOCAL, TABLE, Measured, Row, plot, table
from bench.wan_report import LINK as FAR_LINK
from bench.wan_report import SSH as FAR_SSH

from tests.lab.computer import REPOSITORY


def row(name: str = "pkcs11-tool -L", waited: int = 1, link_seconds: float = 0.1) -> Row:
    return Row(
        name,
        1,
        requests=134,
        apdus=41,
        ways={
            (LOCAL, 0.0): Measured(0.05),
            (COLD, TABLE): Measured(1.6, waited=31),
            (FAR_LINK, TABLE): Measured(link_seconds, waited=waited),
            (FAR_SSH, TABLE): Measured(7.0, trips=133),
        },
    )


def test_the_table_says_what_waited_and_how_long_it_took() -> None:
    line = table([row()]).splitlines()[-1]
    assert "| 134 | 41 | 31 / 1 /  | at most 1 | 133 |" in line
    assert "| 1.60 s | 100 ms |  | 7.00 s | 70.0 times, goal 40 |" in line


def test_goals_that_are_missed_are_marked() -> None:
    line = table([row(waited=2, link_seconds=2.0)]).splitlines()[-1]
    assert "31 / 2 /  (!)" in line
    assert "3.5 times, goal 40: missed" in line


def test_the_same_figures_draw_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot([row(), row("opensc-tool -a")], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_goals_next_door_are_judged() -> None:
    figures = {
        (metric, way): Figures(10, seconds, 2 * seconds, seconds, 2 * seconds)
        for metric in ("one APDU", "begin + APDU + end", ONE_CARD, TWO_CARDS)
        for way, seconds in (
            (DIRECT, 0.001),
            (SSH, 0.002),
            (LINK, 0.0025),
            (UNIX, 0.0015),
            (TLS, 0.002),
            (BESIDE, 0.0018),
        )
    }
    text = near_table(figures)
    assert "| one APDU, p50: link over ssh at most 1.5 of ssh -N -L | 1.25 | met |" in text
    assert "| begin + APDU + end, p50: link over ssh at most 0.7 of ssh -N -L | 1.25 | missed |" in text
    assert "| begin + APDU + end, p50: link over TLS at most 1 of link over ssh | 0.80 | met |" in text
    assert "| one APDU, p50: link over unix: at most 1 of link over ssh | 0.60 | met |" in text
    assert "| one APDU, p50: attach --direct at most 1 of ssh -N -L | 0.90 | met |" in text
    assert "| begin + APDU + end, p50: attach --direct at most 0.6 of ssh -N -L | 0.90 | missed |" in text


def test_requests_are_counted_by_their_headers(tmp_path: Path) -> None:
    pcscd = socket.socket(socket.AF_UNIX)
    pcscd.bind(str(tmp_path / "pcscd"))
    pcscd.listen()
    got = bytearray()

    def serve() -> None:
        connection, _ = pcscd.accept()
        while data := connection.recv(4096):
            got.extend(data)
            connection.sendall(b"!" * len(data))

    threading.Thread(target=serve, daemon=True).start()
    relay = subprocess.Popen(
        [sys.executable, "-m", "bench.requests", tmp_path / "counted", tmp_path / "pcscd"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    assert relay.stdout.readline() == "listening\n"
    version = struct.pack("<II", 12, 0x11) + bytes(12)
    transmit = struct.pack("<II", 32, 0x09) + bytes(12) + struct.pack("<I", 5) + bytes(16) + b"apdu!"
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(str(tmp_path / "counted"))
        for byte in version + transmit + transmit:
            program.sendall(bytes((byte,)))
        answer = b""
        while len(answer) < len(version + transmit + transmit):
            answer += program.recv(4096)
        relay.stdin.write("count\n")
        relay.stdin.flush()
        assert json.loads(relay.stdout.readline()) == {"requests": 3, "apdus": 2}
    assert bytes(got) == version + transmit + transmit
    relay.stdin.close()
    relay.wait(5)
    relay.stdout.close()


def test_what_memory_costs_is_shown_with_its_goals() -> None:
    quick, slow = Kept([0.001] * 3, 0.003), Kept([0.002] * 3, 0.006)
    kept = {("apdu", "reads", UNIX): quick, ("apdu", "reads", UNIX + OFF): slow}
    kept |= {("turn", "acts", UNIX): slow, ("turn", "acts", UNIX + OFF): quick}
    text = remembered_table(kept, {DIRECT: [1.0, 0.8], UNIX: [1.2, 0.1], UNIX + OFF: [1.2, 1.1]})
    assert "| one APDU, reads, link over unix: | 1.00 ms | 2.00 ms | 0.50 | 1.00 ms | 2.00 ms | met |" in text
    assert (
        "| begin + APDU + end, acts, link over unix: | 2.00 ms | 1.00 ms | 2.00 | 2.00 ms | 1.00 ms | missed |" in text
    )
    assert "| link over unix: | 1.20 s | 100 ms | met |" in text
