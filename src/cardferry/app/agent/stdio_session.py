"""What runs in the session that ssh opens for a link: finds the process that stays, and hands its streams over.

Only light imports: it runs again whenever a broken link is mended.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cardferry.app.agent.handoff_client import hand_over
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import SYSTEM_GUESTS, agent_path, runtime_folder
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.spawn import BackgroundError, start, start_agent
from cardferry.app.runtime.system_service import has_the_queue
from cardferry.pcsc.caller import PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.system.peers import user_name

#: s without a guest until an agent that was started by one leaves.
IDLE: Final = 60.0
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_CALLED: Final = re.compile(rf"--called[ =]({_NAME})\b")


class LinkOnlyError(UserError):
    """A key that is for the link only was used for something else."""

    exit_code = 53


def hand_to_agent(
    name: str,
    called: str,
    environ: Mapping[str, str],
    agent_options: list[str],
    request: Request | None = None,
    *,
    direct: bool | None = None,
    direct_ports: str = "",
) -> None:
    """Hand this process's standard streams to the user's agent, and start it if there is none.

    Args:
        name: that ``authorized_keys`` gives to the key, in the command that it has there; empty for none.
        called: what the guest calls itself.
        environ: the environment that sshd has made.
        agent_options: options for the agent if it has to be started.
        request: what the guest is to be served with, unless the agent was started by hand; None for what it serves.
        direct, direct_ports: see `Handoff`.

    Raises:
        LinkOnlyError: the other side asked for another command, and sshd gave it this one.
        BackgroundError: there is no agent, and none can be started.
    """
    asked = environ.get("SSH_ORIGINAL_COMMAND", "")
    if asked and "cardferry host" not in asked:
        raise LinkOnlyError(
            "this key is for the link only", "its line in authorized_keys has command=: see docs/transports/ssh.md"
        )
    if not called and (said := _CALLED.search(asked)):
        called = said[1]
    folder = runtime_folder()
    handoff = Handoff(
        _guest(name or called, environ),
        principal=principal_of(name, environ),
        request=request,
        idle=IDLE,
        direct=direct,
        address=_own_address(environ),
        direct_ports=direct_ports,
    )
    if request is not None and has_the_queue(request):
        hand_over(SYSTEM_GUESTS, handoff, _gone)
    else:
        hand_over(agent_path(folder), handoff, lambda: start_agent(folder, IDLE, agent_options))


def _gone() -> None:
    raise BackgroundError(f"nobody listens at {SYSTEM_GUESTS} any more", "systemctl restart cardferry-system")


def remote_end_path(folder: Path, path: Path) -> Path:
    """Where the guest listens for streams that serves programs at ``path``."""
    return folder / f"guest-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def hand_to_remote_end(handoff: Handoff, path: Path | None, remote_end_options: list[str]) -> None:
    """Hand this process's standard streams to the guest that serves programs at ``path``; start it if there is none.

    Args:
        handoff: who lends its readers.
        path: None for a path in the account's own folder, named after who lends its readers.
        remote_end_options: options for the guest if it has to be started.

    Raises:
        BackgroundError: there is no guest, and none can be started; or it has ended the link.
    """
    folder = runtime_folder()
    if not re.fullmatch(_NAME, handoff.name):
        handoff = Handoff("host", handoff.token)  # it is shown on terminals, and part of a path
    path = path or folder / f"{handoff.name}.sock"

    def begin() -> None:
        start(["guest", "--socket", str(path), *remote_end_options], folder / "guest.log")

    hand_over(remote_end_path(folder, path), handoff, begin)


def principal_of(name: str, environ: Mapping[str, str]) -> tuple[PrincipalKind, str]:
    """Who comes, as far as sshd has proved it: the name of the key, or its fingerprint, or the account.

    A guest whose key has a command of its own in ``authorized_keys`` can say nothing that comes in here. One whose key
    has none may run what it likes, and so say what it likes: but then it has the account, and needs no other name.

    Args:
        name: that ``authorized_keys`` gives to the key; empty for none.
        environ: the environment that sshd has made; ``SSH_USER_AUTH`` with ``ExposeAuthInfo yes`` (sshd_config(5)).
    """
    account = user_name(os.getuid())
    if "SSH_CONNECTION" not in environ:
        return PrincipalKind.LOCAL_USER, account
    if re.fullmatch(_NAME, name):
        return PrincipalKind.SSH, name
    return PrincipalKind.SSH, _key(environ.get("SSH_USER_AUTH", "")) or account


def _own_address(environ: Mapping[str, str]) -> str:
    """The address of this computer at which sshd was reached (``SSH_CONNECTION``, ssh(1)); empty where it was not."""
    words = environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) > 2 else ""


def _key(path: str) -> str:
    """The fingerprint of the key that opened the session, as ssh-keygen writes it; empty where that is not known."""
    try:
        methods = Path(path).read_text(errors="replace") if path else ""
    except OSError:
        return ""
    for method in methods.splitlines():
        match method.split():
            case ["publickey", _, blob, *_]:
                try:
                    digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
                except ValueError:
                    return ""
                return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    return ""


def _guest(name: str, environ: Mapping[str, str]) -> str:
    """Who comes, for people: the name it gives itself, and the address that sshd has seen."""
    address = environ.get("SSH_CONNECTION", "").partition(" ")[0]
    if not re.fullmatch(_NAME, name):
        name = ""  # it is shown on terminals
    if name and address:
        return f"{name} ({address})"
    return name or address or "a guest on this computer"
