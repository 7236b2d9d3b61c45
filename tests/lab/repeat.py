"""Runs a command again and again and counts its failures. Executed as a file, with the standard library only.

    repeat.py COUNT PAUSE COMMAND...    COUNT times, PAUSE s between two runs
    repeat.py 0 PAUSE COMMAND...        until a line, or its end, comes on standard input

A run that takes longer than 20 s is killed and has failed.

Says `running` when the first run has ended, and in the end {"runs": n, "failures": [...], "longest": s}: what each run
that did not end with 0 said last, and how long the longest run took.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time

PATIENCE = 20.0


def fault(command: list[str]) -> str:
    """Run it once; what it said last when it failed, else nothing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"killed after {PATIENCE:g} s"
    said = (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
    return said.splitlines()[-1] if done.returncode else ""


def main(count: int, pause: float, command: list[str]) -> None:
    """See the module."""
    failures: list[str] = []
    runs, longest, ended = 0, 0.0, False
    while runs < count or (not count and not ended):
        began = time.monotonic()
        said = fault(command)
        longest = max(longest, time.monotonic() - began)
        runs += 1
        if said:
            failures.append(said)
        if runs == 1:
            print("running", flush=True)
        if count:
            time.sleep(pause)
        else:
            ended = bool(select.select([sys.stdin], [], [], pause)[0])
    print(json.dumps({"runs": runs, "failures": failures, "longest": round(longest, 3)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
