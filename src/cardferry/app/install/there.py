"""What another computer has: its system, its Pythons, and what of cardferry is there already (``look.sh``)."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshConnection
from cardferry.transports.ssh.command import environment

#: The oldest Python that runs cardferry, as ``pyproject.toml`` says.
OLDEST: Final = (3, 11)
_PROGRAM: Final = (
    "import platform, sys, sysconfig; print(getattr(sys, '_base_executable', sys.executable), "
    "'%d.%d.%d' % sys.version_info[:3], sysconfig.get_config_var('SOABI') or '-', platform.libc_ver()[1] or '-', "
    "sep='\\t')"
)
#: CPython's name for what it loads: ``cpython-311-x86_64-linux-gnu`` (PEP 3149); ``313t`` is another ABI.
_ABI: Final = re.compile(r"cpython-(3)(\d+)-([a-z0-9_]+)-linux-(gnu|musl)\w*")
#: Bytes that are kept of what a program over there writes.
_MOST: Final = 1 << 18
_COMPLAINT: Final = re.compile(r"^error: (.+)$", re.MULTILINE)


class SetupError(UserError):
    """cardferry cannot be brought there."""

    exit_code = 55


@dataclass(frozen=True, slots=True)
class Python:
    """A Python over there.

    Attributes:
        path: of the program.
        version: such as (3, 11, 2).
        abi: what compiled modules must be made for, ``SOABI`` of `sysconfig`.
        glibc: the minor version of its GNU libc 2; 0 for another one.
    """

    path: str
    version: tuple[int, ...]
    abi: str
    glibc: int = 0

    @property
    def usable(self) -> bool:
        """Whether cardferry runs on it."""
        return self.version >= OLDEST and _ABI.fullmatch(self.abi) is not None

    @property
    def machine(self) -> str:
        """The processor, such as ``x86_64``."""
        match = _ABI.fullmatch(self.abi)
        return match[3] if match else ""

    @property
    def musl(self) -> bool:
        """Whether its libc is musl."""
        return "-musl" in self.abi

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.path})"


@dataclass(slots=True)
class There:
    """What was found.

    Attributes:
        pythons: those that run, each once.
        broken: paths of those that do not.
        program: what the command leads to, as `bring` has made it: ``NAME/bin/cardferry``, or a path.
        link: what is at ``~/.local/bin/cardferry``: the target of a link, ``file``, or "" if nothing that can be run.
        works: whether that can be started.
    """

    system: str = ""
    pythons: list[Python] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    program: str = ""
    link: str = ""
    works: bool = False

    def learn(self, key: str, value: str) -> None:
        """Take in one line."""
        match key:
            case "system" | "program" | "link":
                setattr(self, key, value)
            case "works":
                self.works = True
            case "broken":
                self.broken.append(value)
            case "python" if value.count("\t") == 3:
                path, version, abi, libc = value.split("\t")
                numbers = tuple(int(one) for one in re.findall(r"\d+", version)[:3])
                minor = re.fullmatch(r"2\.(\d+).*", libc)
                found = Python(path, numbers, abi, int(minor[1]) if minor else 0)
                if found not in self.pythons:
                    self.pythons.append(found)


async def look(connection: SshConnection) -> There:
    """See what is there; raises `SetupError` when that computer says nothing that we understand."""
    there = There()
    for line in await told(connection, "look.sh", program=_PROGRAM):
        key, _, value = line.partition(" ")
        there.learn(key, value)
    if not there.system:
        raise SetupError(
            f"{connection.destination} has no shell that we understand",
            f"see what this says: ssh {connection.destination} exec sh -c true",
        )
    return there


async def told(connection: SshConnection, script: str, **variables: str) -> list[str]:
    """Run a script of this package over there; return the lines that are meant for us.

    Args:
        variables: what it is told, beside ``mark``.
    """
    mark = secrets.token_hex(8)
    text = resources.files(__package__).joinpath(script).read_text(encoding="utf-8")
    first = "; ".join(f'{name}="{value}"' for name, value in {"mark": mark, **variables}.items())
    process = await started(connection, "exec sh -s", complaints=False)
    sink, source = process.stdin, process.stdout
    if sink is None or source is None:
        raise RuntimeError("a process without pipes")
    sink.write(f"{first}\n{text}".encode())
    sink.write_eof()
    output = await bounded(source)
    await process.wait()
    lines = output.decode(errors="replace").splitlines()
    return [line.removeprefix(f"{mark} ") for line in lines if line.startswith(f"{mark} ")]


async def started(connection: SshConnection, command: str, *, complaints: bool) -> asyncio.subprocess.Process:
    """Start a command over there, with pipes.

    Args:
        complaints: whether its standard error is one of them.
    """
    return await asyncio.create_subprocess_exec(
        *connection.session_command(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if complaints else asyncio.subprocess.DEVNULL,
        env=environment(),
    )


async def bounded(stream: asyncio.StreamReader) -> bytes:
    """All that a program over there writes; of more than it can have to say, the beginning."""
    kept = bytearray()
    while data := await stream.read(_MOST):
        kept += data[: _MOST - len(kept)]
    return bytes(kept)


def complaint(said: str, status: int | None) -> str:
    """What is wrong, in what a program has written to its standard error."""
    if found := _COMPLAINT.search(said):
        return found[1]
    return (said.strip() or f"exit status {status}").splitlines()[-1]
