"""Sockets that systemd hands over, as sd_listen_fds(3) says."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from cardferry.system.activation import listening_sockets

_PROGRAM = """
import os
from cardferry.system.activation import listening_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
(found,) = listening_sockets()
print(found.getsockname(), found.get_inheritable(), "LISTEN_FDS" in os.environ, listening_sockets())
"""


def test_they_are_taken_once_and_children_hear_nothing_of_them(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        words = ["bash", "-c", f'exec "$0" -c "$1" 3<&{listening.fileno()}', sys.executable, _PROGRAM]
        done = subprocess.run(
            words, pass_fds=[listening.fileno()], env={"LISTEN_FDS": "1"}, capture_output=True, text=True, check=True
        )
    assert done.stdout == f"{tmp_path / 's'} False False []\n"


def test_those_of_another_process_are_none_of_ours() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "PATH": "/bin"}
    assert listening_sockets(environ) == []
    assert environ == {"PATH": "/bin"}
