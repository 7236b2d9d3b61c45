"""Who is at the other end of a socket, as the kernel says (``SO_PEERCRED``, unix(7); proc_net(5)), and its name."""

from __future__ import annotations

import pwd
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
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


#: ``TCP_ESTABLISHED`` in a line of proc_pid_net_tcp(5).
_ESTABLISHED: Final = "01"


def tcp_peers(pid: int) -> set[str]:
    """The IP addresses to which a process of this account is connected over TCP (proc_pid_fd(5), proc_pid_net(5))."""
    sockets, found = set(), set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(str(descriptor.readlink()))
        for family in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
                _, _, remote, state, _, _, _, _, _, inode, *_ = line.split()
                if state == _ESTABLISHED and f"socket:[{inode}]" in sockets:
                    found.add(_address(remote.partition(":")[0]))
    return found


def _address(digits: str) -> str:
    """An address as in proc_pid_net_tcp(5): words of 32 bits in this computer's byte order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return str(IPv4Address(raw))
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)
