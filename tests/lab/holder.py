"""The administrator of one computer: a process that holds its namespaces open, does what needs rights there, and
in the end kills everything that runs there. Executed as a file, with the standard library only.

It reads one JSON request a line from standard input and answers each with one JSON line. When standard input ends,
also because whoever started it was killed, it kills every process in its network namespace, by id, until none is left.

Argument: the network namespace it was started from, as `/proc/self/ns/net` names it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2)."""
    if _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _run(argv: list[str]) -> None:
    """Run a command with the holder's rights."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(0, f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")


def _answer(request: dict[str, list[str]]) -> None:
    """Do what one request says."""
    for action, words in request.items():
        if action == "run":
            _run(words)
        elif action == "mount":
            source, target, kind, flags, data = words
            _mount(source, target, kind, int(flags), data)
        elif action == "mkdir":
            Path(words[0]).mkdir(mode=int(words[1], 8), parents=True, exist_ok=True)
            Path(words[0]).chmod(int(words[1], 8))
        elif action == "hostname":
            socket.sethostname(words[0])
        else:
            raise ValueError(action)


def _namespace(process: str) -> str:
    """The network namespace of a process, empty when it is gone or not ours to see."""
    try:
        return str(Path(f"/proc/{process}/ns/net").readlink())
    except OSError:
        return ""


def _kill_all() -> None:
    """Kill everything in this network namespace except this process."""
    mine, myself = _namespace("self"), str(os.getpid())
    while True:
        others = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and entry != myself]  # noqa: PTH208
        here = [process for process in others if _namespace(str(process)) == mine]
        if not here:
            return
        for process in here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.005)  # until they are gone; a process that is dying cannot be waited for by a stranger


def main() -> None:
    """Serve requests until the end of standard input."""
    if _namespace("self") in ("", sys.argv[1]):
        sys.exit("this is no network namespace of its own")
    print(json.dumps({"pid": os.getpid()}), flush=True)
    try:
        for line in sys.stdin:
            try:
                _answer(json.loads(line))
                answer = {}
            except (OSError, ValueError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        _kill_all()


if __name__ == "__main__":
    main()
