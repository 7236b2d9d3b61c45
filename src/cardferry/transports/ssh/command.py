"""How ssh is called: the user's own command, the options that a carrier needs, and what its version allows.

Source: ssh(1), ssh_config(5) of OpenSSH 8.4 to 9.9. The user's ``~/.ssh/config`` is read as usual; what is set here is
only what would otherwise break the carrier (a terminal of its own, forwardings and commands meant for people).
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.system.processes import killed
from cardferry.transports.ssh.errors import SshNotInstalledError

#: Seconds without a word from the other side until ssh asks, and how often it asks before it gives up: a computer
#: that vanished is noticed within 9 s.
ALIVE_INTERVAL: Final = 3
ALIVE_COUNT: Final = 2
#: Seconds for the connection and the key exchange together.
CONNECT_TIMEOUT: Final = 20

_MASTER_OPTIONS: Final = (
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "EscapeChar=none",
    "LogLevel=INFO",
    f"ServerAliveInterval={ALIVE_INTERVAL}",
    f"ServerAliveCountMax={ALIVE_COUNT}",
    f"ConnectTimeout={CONNECT_TIMEOUT}",
)
#: Options that came with a version, because ssh refuses to start when it meets one that it does not know.
#: 9.5 delays small messages of connections with a terminal to hide the rhythm of typing: 20 ms each.
_NEWER_OPTIONS: Final = (
    ((8, 7), "SessionType=default"),
    ((8, 7), "StdinNull=no"),
    ((8, 7), "ForkAfterAuthentication=no"),
    ((9, 5), "ObscureKeystrokeTiming=no"),
)
_VERSION = re.compile(r"OpenSSH\D*?_(\d+)\.(\d+)")


class SshCommandError(UserError):
    """What was given as the ssh program is no command."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class SshCommand:
    """A program that takes OpenSSH's arguments.

    Attributes:
        program: its words, such as ``("ssh", "-F", "my_config")``.
        version: major and minor of OpenSSH, (0, 0) when it does not say.
    """

    program: tuple[str, ...] = ("ssh",)
    version: tuple[int, int] = (0, 0)

    @classmethod
    def parse(cls, text: str) -> SshCommand:
        """The value of ``-e/--ssh COMMAND``, split as a shell would; `SshCommandError` when it cannot be."""
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise SshCommandError(f"not a command: {text!r} ({error})", "quote it as for a shell") from None
        if not words:
            raise SshCommandError("the ssh command is empty", "leave -e/--ssh out to use ssh")
        return cls(tuple(words))

    def master(self, destination: str, control: str, remote_command: str, terminal: bool = True) -> list[str]:
        """Arguments that open the connection: a terminal session, which makes both sides set ``TCP_NODELAY``.

        OpenSSH decides that once, when the first session of a connection starts; without it each small message waits
        for the other side's delayed acknowledgement (40 ms). A server that gives no terminal makes ssh end: then it
        must do without.
        """
        return [
            *self.program,
            "-tt" if terminal else "-T",
            "-M",
            "-S",
            control,
            *self._options(("ControlMaster=yes", "ControlPersist=no")),
            "--",
            destination,
            remote_command,
        ]

    def alone(self, destination: str, remote_command: str) -> list[str]:
        """Arguments that open a connection for one command, without a terminal; nothing else goes through it."""
        return [*self.program, "-T", *self._options(("ControlMaster=no", "ControlPath=none")), "--", destination,
                remote_command]  # fmt: skip

    def _options(self, first: tuple[str, ...]) -> list[str]:
        newer = tuple(option for since, option in _NEWER_OPTIONS if self.version >= since)
        return [word for option in (*first, *_MASTER_OPTIONS, *newer) for word in ("-o", option)]

    def control(self, destination: str, control: str, order: str, *arguments: str) -> list[str]:
        """Arguments that tell the open connection something (``ssh -O``), without reading any configuration."""
        return [*self.program, "-F", "none", "-S", control, "-O", order, *arguments, "--", destination]

    def session(self, destination: str, control: str, remote_command: str) -> list[str]:
        """Arguments that run a command over the open connection, without a terminal or any configuration."""
        options = ["-o", "LogLevel=ERROR", "-o", "EscapeChar=none"]
        return [*self.program, "-F", "none", "-S", control, *options, "-T", "--", destination, remote_command]


async def identify(command: SshCommand) -> SshCommand:
    """The same command with its version; raises `SshNotInstalledError` when it cannot be started."""
    if shutil.which(command.program[0]) is None:
        raise SshNotInstalledError(
            f"there is no program {command.program[0]!r} here",
            "install OpenSSH's client (apt install openssh-client), or correct -e/--ssh COMMAND",
        )
    status, _, said = await run([*command.program, "-V"])
    match = _VERSION.search(said)
    if status != 0 or match is None:
        return command
    return SshCommand(command.program, (int(match[1]), int(match[2])))


async def run(arguments: list[str]) -> tuple[int, str, str]:
    """Run a short command that asks nobody anything; return its exit status, output and complaints."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        output, complaints = await process.communicate()
    finally:
        await killed(process)
    return process.returncode or 0, output.decode(errors="replace"), complaints.decode(errors="replace")


def environment() -> dict[str, str]:
    """Our environment, with messages in the language that `errors` reads."""
    return {**os.environ, "LC_ALL": "C"}
