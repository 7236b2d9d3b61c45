"""cardferry at both ends: installed where sessions of ssh find it, and what a link consists of, to be broken."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cardferry.app.runtime.status_socket import Link, Running, running
from tests.lab.computer import CARDFERRY, Computer
from tests.lab.process import wait_until

_SITE = """\
import cardferry.wire.link.greeting as greeting
greeting.VERSION, greeting.OLDEST = {version}, {oldest}
have = list(greeting.Hello.__init__.__defaults__)
have[0], have[1] = {version}, {oldest}
greeting.Hello.__init__.__defaults__ = tuple(have)
"""


def install_cardferry(computer: Computer, env: Mapping[str, str] | None = None, script: str = "") -> None:
    """Make ``cardferry`` a command of everybody on a computer, as a package would.

    Args:
        env: environment that it gets besides.
        script: a program to install under that name instead.
    """
    folder = computer.folder / "bin"
    if not folder.exists():
        folder.mkdir()
        computer.holder.mount_bind(folder, "/usr/local/bin")
    variables = "".join(f"export {name}='{value}'\n" for name, value in (env or {}).items())
    program = folder / "cardferry"
    program.write_text(script or f'#!/bin/sh\n{variables}exec {CARDFERRY} "$@"\n')
    program.chmod(0o755)


def of_version(computer: Computer, version: int, oldest: int) -> dict[str, str]:
    """An environment in which cardferry speaks other versions of the link's protocol."""
    folder = computer.folder / f"speaks{version}"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE.format(version=version, oldest=oldest))
    return {"PYTHONPATH": str(folder)}


def processes(computer: Computer, pattern: str) -> list[int]:
    """Processes of a computer whose command line matches, oldest first."""
    network = Path(f"/proc/{computer.holder.pid}/ns/net").readlink()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if re.search(pattern, line) and (entry / "ns/net").readlink() == network:
                found.append(int(entry.name))
    return sorted(found)


#: What the parts of a link over ssh look like, by the computer on which they run.
MASTER = r"^ssh .*-M -S"
SESSION = r"^ssh .*-F none -S .*cardferry (host|guest)"
SSHD = r"^sshd: \S+@"
STDIO = r"cardferry (host|guest) .*--stdio"
AGENT = r"-m cardferry host "
GUEST = r"-m cardferry guest "


def kill(computer: Computer, pattern: str) -> int:
    """SIGKILL to the newest process that matches; 0 when there is none, else its id."""
    found = processes(computer, pattern)
    for process in found[-1:]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            return process
    return 0


def all_running(computer: Computer) -> list[Running]:
    """What runs there, as ``cardferry status`` finds it."""
    return running(computer.outside(computer.runtime / "cardferry"))


def link_of(computer: Computer, command: str) -> Link:
    """The first link of a command that runs there."""
    found = wait_until(lambda: [one for one in all_running(computer) if one.command == command], f"{command} runs")
    return found[0].links[0]


def wait_for_link(computer: Computer, command: str, timeout: float = 20.0) -> None:
    """Wait until that link is up."""
    wait_until(lambda: link_of(computer, command).state == "up", f"the link of {command} is up", timeout)


def wait_for_resume(computer: Computer, command: str) -> None:
    """Wait until that link has broken and is up again: what was killed can live for a moment longer."""

    def resumed() -> bool:
        link = link_of(computer, command).link
        return link is not None and link.resumes > 0

    wait_until(resumed, f"the link of {command} goes on")
    wait_for_link(computer, command)
