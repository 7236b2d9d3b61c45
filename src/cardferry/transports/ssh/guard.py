"""The near end of ``guard.sh``: what it is asked, what it answers, in lines.

The guard is the remote command of the session that keeps the connection open. Its program does not fit every login
shell's quoting, so only `bootstrap` is on the command line; it switches the terminal to pass bytes unchanged, says
``boot``, and then reads `program` from the session's input. Everything meant for us begins with a word that nobody else
knows, so whatever profile scripts print is passed over.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

#: Bytes of the longest line that is looked at; more is a shell that prints rubbish.
MAX_LINE: Final = 8192
#: Seconds between signs of life; the guard gives up after 6 to 9 s without.
HEARTBEAT_INTERVAL: Final = 2.0
HEARTBEAT: Final = b".\n"
QUIT: Final = b"quit\n"
_REPLY_KEYS: Final = frozenset({"kind", "token", "since", "name", "running", "listening", "folder", "holder", "taken"})

_BOOTSTRAP: Final = (
    'exec sh -c \'stty raw -echo 2>/dev/null; mark=$1; printf "\\n%s boot\\n" $mark; '
    'n=$(printf "\\nx"); n=${n%x}; p=; '
    'while IFS= read -r l; do [ "$l" = $mark ] && break; p=$p$l$n; done; '
    '[ "$l" = $mark ] && eval "$p"\' cardferry-guard '
)


def new_mark() -> str:
    """A word that begins each line of one guard, and proves whose socket it is."""
    return "cardferry-" + secrets.token_hex(8)


def bootstrap(mark: str) -> str:
    """The remote command; only single quotes outside, no ``!``: sh, bash, zsh, ksh, fish and csh take it alike."""
    return _BOOTSTRAP + mark


def program(mark: str) -> bytes:
    """What to send when the guard has said ``boot``: its program, without comments, and the closing line."""
    text = resources.files(__package__).joinpath("guard.sh").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return "\n".join([*lines, mark, ""]).encode()


def request(number: int, verb: str, *arguments: str) -> bytes:
    """One request line."""
    return (" ".join([str(number), verb, *map(shlex.quote, arguments)]) + "\n").encode(errors="surrogateescape")


@dataclass(slots=True)
class Facts:
    """What the guard tells about the other side.

    Attributes:
        uid: the account's user id there.
        session: process id of its sshd session.
        system: ``uname -s``.
        temporary: the folder for temporary files.
        runtime: the account's own runtime folder (``$XDG_RUNTIME_DIR``), empty if there is none.
        pcscd: path of the pcsc-lite socket there, empty if there is none.
        installed: which of ``pcscd`` and ``cardferry`` are installed.
        terminal: whether the server gave the session a terminal.
    """

    uid: int = -1
    session: int = 0
    system: str = ""
    temporary: str = "/tmp"  # noqa: S108 - the other side's, when it does not say
    runtime: str = ""
    pcscd: str = ""
    installed: frozenset[str] = frozenset()
    terminal: bool = False

    def learn(self, key: str, value: str) -> None:
        """Take in one ``fact`` line; an unknown key is passed over."""
        match key:
            case "uid" | "session" if value.isascii() and value.isdigit():
                setattr(self, key, int(value))
            case "system" | "temporary" | "runtime" | "pcscd":
                setattr(self, key, value)
            case "installed" if value in ("pcscd", "cardferry"):
                self.installed |= {value}
            case "terminal":
                self.terminal = True


@dataclass(slots=True)
class Reply:
    """The answer to one request.

    Attributes:
        failure: why it could not be done, empty if it was.
        values: what it said besides.
    """

    failure: str = ""
    values: dict[str, str] = field(default_factory=dict)

    def learn(self, key: str, value: str) -> None:
        """Take in one line; there are no more keys than the guard's own program has."""
        if key in _REPLY_KEYS:
            self.values[key] = value


def _printable(text: str) -> str:
    """What comes from elsewhere is shown on terminals: nothing in it may steer one."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)


class LineSplitter:
    """Bytes in, whole lines out; a line longer than `MAX_LINE` is dropped, so memory stays bounded."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield each line that ``data`` completes, without its end."""
        self._pending += data
        while (end := self._pending.find(b"\n")) >= 0:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            if not self._dropping and len(line) <= MAX_LINE:
                yield _printable(line.decode(errors="replace").rstrip("\r"))
            self._dropping = False
        if len(self._pending) > MAX_LINE:
            self._pending.clear()
            self._dropping = True
