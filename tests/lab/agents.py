"""SSH agents that keep a PIV card open: OpenSSH's with Yubico's PKCS#11 module, and yubikey-agent."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from tests.lab.cards import PIV_PIN
from tests.lab.computer import Computer
from tests.lab.gpg import configure_pinentry
from tests.lab.process import Command, Running, wait_until

#: Signs a letter with the agent's key, and checks the signature.
_SIGN = """\
signature=$(mktemp) && trap 'rm -f "$signature"' EXIT
ssh-keygen -q -Y sign -f {key} -n letter < {letter} > "$signature" && \
ssh-keygen -Y check-novalidate -n letter -s "$signature" < {letter}
"""


class Agent:
    """An agent that runs, with the key for PIV authentication in it.

    Attributes:
        process: the agent.
        signing: a command that has it sign and checks what it signed.
        env: what leads that to the agent.
    """

    def __init__(self, computer: Computer, command: Command, socket: Path, env: Mapping[str, str]) -> None:
        self.process: Running = computer.popen(command, env)
        self.env = {"SSH_AUTH_SOCK": str(socket)}
        self._computer = computer
        self._folder = socket.parent
        wait_until(socket.exists, f"the agent listens: {self.process}")

    def _choose_key(self) -> None:
        listing = self._computer.run(["ssh-add", "-L"], self.env).check().out
        key, letter = self._folder / "key.pub", self._folder / "letter"
        key.write_text(listing.splitlines()[0] + "\n")
        letter.write_text("Dear card, please sign this.\n")
        words = _SIGN.format(key=shlex.quote(str(key)), letter=shlex.quote(str(letter)))
        self.signing: Command = ["sh", "-c", words]


def ykcs11_agent(computer: Computer, env: Mapping[str, str], name: str = "ykcs11") -> Agent:
    """OpenSSH's agent; Yubico's PKCS#11 module in it is logged in.

    Args:
        env: leads the agent to the card.
        name: of its folder in the computer.
    """
    folder = computer.home / name
    folder.mkdir(mode=0o700)
    socket = folder / "agent"
    agent = Agent(computer, ["ssh-agent", "-D", "-a", socket], socket, env)
    asking = folder / "askpass"
    asking.write_text(f"#!/bin/sh\necho {PIV_PIN}\n")
    asking.chmod(0o700)
    module = next(Path("/usr/lib").glob("*/libykcs11.so.2"))
    computer.run(
        ["ssh-add", "-s", module], {**agent.env, "SSH_ASKPASS": str(asking), "SSH_ASKPASS_REQUIRE": "force"}
    ).check()
    agent._choose_key()
    return agent


def yubikey_agent(computer: Computer, program: Path, env: Mapping[str, str], name: str = "yubikey-agent") -> Agent:
    """yubikey-agent, connected.

    Args:
        program: its path.
        env: leads the agent to the card.
        name: of its folder in the computer.
    """
    folder = computer.home / name
    folder.mkdir(mode=0o700)
    configure_pinentry(folder)
    gpgconf = folder / "gpgconf"  # which it asks where the pinentry is
    gpgconf.write_text(f"#!/bin/sh\necho 'pinentry:Passphrase Entry:{folder / 'pinentry'}'\n")
    gpgconf.chmod(0o700)
    socket = folder / "agent"
    path = f"{folder}:{computer.env['PATH']}"
    agent = Agent(computer, [program, "-l", socket], socket, {**env, "PATH": path})
    agent._choose_key()
    return agent
