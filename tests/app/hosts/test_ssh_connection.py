"""How patient ssh is told to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cardferry.app.hosts import ssh_connection
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.transports.ssh import SshCommand, SshError


def deaf(folder: Path) -> tuple[SshCommand, Path]:
    """An ssh that reaches nobody, and notes what it was asked."""
    notes = folder / "notes"
    program = folder / "ssh"
    program.write_text(f'#!/bin/sh\ncase "$*" in *-V) ;; *) echo "$*" >> {notes};; esac\nexit 255\n')
    program.chmod(0o755)
    return SshCommand((str(program),)), notes


async def times_given(hurry: bool, folder: Path, attempts: int) -> list[int]:
    """The seconds that the host is given with each attempt; the first ``ConnectTimeout`` counts."""
    ssh, notes = deaf(folder)
    async with SshConnector("host", ssh, folder, hurry=hurry) as carrier:
        for _ in range(attempts):
            with pytest.raises(SshError):
                await carrier.connection(hurry=True)
    found = [re.search(r"ConnectTimeout=(\d+)", line) for line in notes.read_text().splitlines()]
    return [int(one[1]) for one in found if one]


async def test_the_first_time_a_host_gets_all_the_time_that_a_person_would_give_it(tmp_path: Path) -> None:
    assert await times_given(False, tmp_path, 2) == [20, 4]


async def test_one_that_others_wait_for_is_given_less_at_first_but_not_for_ever(tmp_path: Path) -> None:
    assert await times_given(True, tmp_path, 6) == [4, 4, 4, 4, 20, 20]


async def test_a_login_that_takes_its_time_is_said_once_and_only_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ssh, _ = deaf(tmp_path)
    monkeypatch.setattr(ssh_connection, "SLOW_LOGIN", 0.0)
    async with SshConnector("host", ssh, tmp_path) as carrier:
        for _ in range(2):
            with pytest.raises(SshError):
                await carrier.connection()
    assert caplog.messages.count("waiting for host: no login yet after 0 s") == 1


async def test_a_login_that_is_fast_is_not_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ssh, _ = deaf(tmp_path)
    async with SshConnector("host", ssh, tmp_path) as carrier:
        with pytest.raises(SshError):
            await carrier.connection()
    assert "waiting for" not in caplog.text
