"""What to say of a process of ours that does not answer; one that was stopped (SIGSTOP, Ctrl-Z) never will."""

from __future__ import annotations

import socket
from typing import Final

from cardferry.app.runtime.spawn import BackgroundError
from cardferry.system.peers import peer_credentials, process_name
from cardferry.system.processes import is_stopped

#: s without an answer after which something is said of the process at the other end.
LOOK_AFTER: Final = 2.0


def silence(pid: int) -> str:
    """How it is that it does not answer."""
    return "is stopped" if is_stopped(pid) else "does not answer"


def silent_hint(pid: int) -> str:
    """What a person can do about it."""
    if is_stopped(pid):
        return f"kill -CONT {pid} lets it go on"
    return f"ps -o stat,time,args -p {pid} shows whether it is at work; if it hangs, kill -9 {pid}, and start it anew"


def silent_peer(connection: socket.socket) -> tuple[str, str]:
    """What to say of the process at the other end of a Unix socket, which does not answer; and what to do."""
    pid, _ = peer_credentials(connection)
    return f"{process_name(pid)} (process {pid}) {silence(pid)}", silent_hint(pid)


def check_not_stopped(connection: socket.socket) -> None:
    """Raise `BackgroundError` when the process at the other end of a Unix socket is stopped."""
    if is_stopped(peer_credentials(connection)[0]):
        raise BackgroundError(*silent_peer(connection))
