from __future__ import annotations

import logging
import resource
import subprocess
import sys

import pytest

from cardferry.system import limits


class Limits:
    """Stands in for the kernel's limits of this process."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int, refuses: bool = False) -> None:
        self.values = (soft, hard)
        self.refuses = refuses

    def getrlimit(self, _what: int) -> tuple[int, int]:
        return self.values

    def setrlimit(self, _what: int, values: tuple[int, int]) -> None:
        if self.refuses:
            raise ValueError("not allowed")
        self.values = values


@pytest.mark.parametrize(
    ("soft", "hard", "now"),
    [
        (1024, 4096, 4096),
        (4096, 4096, 4096),
        (1024, resource.RLIM_INFINITY, 1 << 20),
        (1 << 21, resource.RLIM_INFINITY, 1 << 21),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, now: int
) -> None:
    fake = Limits(soft, hard)
    monkeypatch.setattr(limits, "resource", fake)
    assert limits.raise_open_files() == now
    assert fake.values == (now, hard)


def test_where_there_is_no_limit_there_is_none_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(limits, "resource", fake)
    assert limits.raise_open_files() == 1 << 20
    assert fake.values == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def test_a_limit_that_cannot_be_raised_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(limits, "resource", Limits(256, 4096, refuses=True))
    assert limits.raise_open_files() == 256
    assert "stays at 256" in caplog.text


PR_GET_DUMPABLE = 3
PRIVATE = f"""
import ctypes, os, resource, subprocess, sys
from cardferry.app.runtime import signals as lifetime
from cardferry.system import limits

resource.setrlimit(resource.RLIMIT_CORE, (4096, 8192))
look = '''
import ctypes, resource
print(*resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}))
'''

async def main():
    exec(look)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", look])
    subprocess.run([sys.executable, "-c", look], preexec_fn=limits.cores_as_before)
    assert os.listdir("/proc/self/fd") and open("/proc/self/comm").read()

exec(look)
lifetime.run(main)
lifetime.run(main)
"""


def test_a_command_that_runs_long_is_dumped_by_nobody_and_its_children_as_before() -> None:
    done = subprocess.run([sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=True)
    inside = ["0 8192 0", "0 8192 1", "4096 8192 1"]
    assert done.stdout.splitlines() == ["4096 8192 1", *inside, *inside]
