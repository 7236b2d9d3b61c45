"""Who is at the other end of a Unix socket, as the kernel says (``SO_PEERCRED``, unix(7)), and what it is called."""

from __future__ import annotations

import pwd
import socket
import struct
from pathlib import Path
from typing import Final

#: ``struct ucred``: process, user and group id.
_UCRED: Final = struct.Struct("3i")


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end of a connected Unix socket."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def process_name(pid: int) -> str:
    """The command name of a process, as far as it can be seen from here (proc(5))."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "another program"


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since the computer did (field 22 of proc_pid_stat(5)); 0 when it has gone.

    With it a process id is that of no later process.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(status.rpartition(b") ")[2].split()[19])  # the name before that may have blanks and brackets


def user_name(uid: int) -> str:
    """The name of an account; its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
