"""What runs in the session that ssh opens for a link: finds the process that stays, and hands its streams over.

Only light imports: it runs again whenever a broken link is mended.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cardferry.app.background import start
from cardferry.app.handover import Visitor, hand_over
from cardferry.app.paths import runtime_folder
from cardferry.pcsc.errors import UserError

#: s without a guest until an agent that was started by one leaves.
IDLE: Final = 60.0
_AGENT: Final = "agent"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAMED: Final = re.compile(rf"--name[ =]({_NAME})\b")


class LinkOnlyError(UserError):
    """A key that is for the link only was used for something else."""

    exit_code = 53


def agent_path(folder: Path) -> Path:
    """Where the user's agent listens."""
    return folder / _AGENT


def settle_runtime_folder(environ: MutableMapping[str, str]) -> None:
    """Let a session without ``XDG_RUNTIME_DIR`` (sshd without PAM) use the account's runtime folder all the same.

    So that it finds what a session with it, or systemd, has started.
    """
    if environ.get("XDG_RUNTIME_DIR"):
        return
    folder = Path(f"/run/user/{os.getuid()}")
    with suppress(OSError):
        if folder.is_dir() and folder.stat().st_uid == os.getuid():
            environ["XDG_RUNTIME_DIR"] = str(folder)


def visit_agent(name: str, environ: Mapping[str, str], agency_words: list[str]) -> None:
    """Hand this process's standard streams to the user's agent, and start it if there is none.

    Args:
        name: who comes, as far as it was said on the command line.
        environ: the environment that sshd has made.
        agency_words: options for the agent if it has to be started.

    Raises:
        LinkOnlyError: the other side asked for another command, and sshd gave it this one.
        BackgroundError: there is no agent, and none can be started.
    """
    asked = environ.get("SSH_ORIGINAL_COMMAND", "")
    if asked and "cardferry host" not in asked:
        raise LinkOnlyError(
            "this key is for the link only", "its line in authorized_keys has command=: see docs/transports/ssh.md"
        )
    if not name and (named := _NAMED.search(asked)):
        name = named[1]
    settle_runtime_folder(os.environ)
    folder = runtime_folder()
    path = agent_path(folder)

    def begin() -> None:
        start(["host", "--idle", f"{IDLE:g}", *agency_words], folder / f"{_AGENT}.log")

    hand_over(path, Visitor(_guest(name, environ)), begin)


def guest_door(folder: Path, path: Path) -> Path:
    """Where the guest listens for streams that serves programs at ``path``."""
    return folder / f"guest-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def visit_guest(visitor: Visitor, path: Path | None, guest_words: list[str]) -> None:
    """Hand this process's standard streams to the guest that serves programs at ``path``; start it if there is none.

    Args:
        visitor: who lends its readers.
        path: None for a path in the account's own folder, named after the visitor.
        guest_words: options for the guest if it has to be started.

    Raises:
        BackgroundError: there is no guest, and none can be started; or it has ended the link.
    """
    settle_runtime_folder(os.environ)
    folder = runtime_folder()
    if not re.fullmatch(_NAME, visitor.name):
        visitor = Visitor("host", visitor.token)  # it is shown on terminals, and part of a path
    path = path or folder / f"{visitor.name}.sock"

    def begin() -> None:
        start(["guest", "--socket", str(path), *guest_words], folder / "guest.log")

    hand_over(guest_door(folder, path), visitor, begin)


def _guest(name: str, environ: Mapping[str, str]) -> str:
    """Who comes, for people: the name it gives itself, and the address that sshd has seen."""
    address = environ.get("SSH_CONNECTION", "").partition(" ")[0]
    if not re.fullmatch(_NAME, name):
        name = ""  # it is shown on terminals
    if name and address:
        return f"{name} ({address})"
    return name or address or "a guest on this computer"
