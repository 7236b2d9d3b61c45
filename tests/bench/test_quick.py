"""The comparison runs: all columns, all rows, so that it cannot rot unseen. Its figures are nobody's business here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench.metrics import CALLS, QUICK, Distance
from bench.results import load
from bench.ways import WAYS

from tests.lab.computer import REPOSITORY


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_fills_every_cell(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--quick", "--results", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    results = load(path)
    wanted = {
        (distance, metric, way.key)
        for distance in Distance
        for way in WAYS
        if way.remote or distance is Distance.NEAR
        for metric in (
            *(metric.key for metric in CALLS),
            *(key for key, rounds in QUICK[distance].program_rounds.items() if rounds),
        )
    }
    assert set(results.figures) == wanted
    assert all(figures.shortest > 0 for figures in results.figures.values())
    for way in WAYS:
        assert way.title in done.stdout


def test_an_unknown_way_is_refused() -> None:
    command = [sys.executable, "-m", "bench", "--ways", "ssh,carrier-pigeon"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: no such way: carrier-pigeon"
    assert done.stderr.splitlines()[1].startswith("hint: ")
