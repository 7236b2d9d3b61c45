"""In the place of systemd's user manager: starts the real gpg-agent for who connects, with an environment of its own.

The real manager takes over the control group that it is started in, with whatever else runs there, so it is not for
tests. What it does for gpg-agent is little: it listens (``gpg-agent.socket``), starts ``gpg-agent --supervised`` when
somebody connects (sd_listen_fds(3)), and gives it what ``systemctl --user import-environment`` has brought.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

SYSTEMCTL = """#!/bin/sh
# systemctl --user, as far as cardferry asks it
shift
case $1 in
    show-environment) cat ENVIRONMENT ;;
    import-environment) eval "echo $2=\\$$2" >>ENVIRONMENT ;;
    is-active)
        echo active
        if [ -e RUNNING ]; then echo active; else echo inactive; exit 3; fi
        ;;
    *) exit 1 ;;
esac
"""


def systemctl(folder: Path, environ: Mapping[str, str]) -> Path:
    """Put a ``systemctl`` there that asks the manager of that folder; returns the folder, for PATH.

    Args:
        environ: what the manager has at first.
    """
    program = folder / "systemctl"
    program.write_text(
        SYSTEMCTL.replace("ENVIRONMENT", str(folder / "environment")).replace("RUNNING", str(folder / "running"))
    )
    program.chmod(0o755)
    (folder / "environment").write_text("".join(f"{name}={value}\n" for name, value in environ.items()))
    return folder


def main(folder: Path, path: Path) -> None:
    """Be the manager, for the socket at ``path``."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        print("listening", flush=True)
        while select.select([listening], [], []):
            (folder / "running").touch()
            if (pid := os.fork()) == 0:
                lines = (folder / "environment").read_text().splitlines()
                environ = dict(line.split("=", 1) for line in lines)
                os.dup2(listening.fileno(), 3)
                os.set_inheritable(3, True)  # it may be 3 already
                environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "std"}
                os.execvpe("gpg-agent", ["gpg-agent", "--supervised"], environ)
            os.waitpid(pid, 0)
            (folder / "running").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
