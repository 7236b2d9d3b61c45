"""The near end of ``guard.sh``: what it is asked, what it answers, in lines.

The guard is the remote command of the session that keeps the connection open. Its program does not fit every login
shell's quoting, so only `bootstrap` is on the command line; it switches the terminal to pass bytes unchanged, says
``boot``, and then reads `program` from the session's input. Everything meant for us begins with a word that nobody else
knows, so whatever profile scripts print is passed over. Up to ``boot`` that is the guard's mark, which can be seen in
the other side's list of processes; and other accounts there can write lines to the session's terminal (``write``,
``wall``). So the program brings a secret word, and what comes after ``boot`` begins with that.
"""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

#: Seconds between signs of life; the guard gives up after 6 to 9 s without.
HEARTBEAT_INTERVAL: Final = 2.0
HEARTBEAT: Final = b".\n"
QUIT: Final = b"quit\n"
_REPLY_KEYS: Final = frozenset(
    {"kind", "token", "since", "name", "running", "listening", "folder", "unsafe", "holder", "taken"}
)
#: Digits of the longest number that the guard says: process and user ids, and its own requests'.
_MAX_DIGITS: Final = 10

_BOOTSTRAP: Final = (
    'exec sh -c \'stty raw -echo 2>/dev/null; mark=$1; printf "\\n%s boot\\n" $mark; '
    'n=$(printf "\\nx"); n=${n%x}; p=; '
    'while IFS= read -r l; do [ "$l" = $mark ] && break; p=$p$l$n; done; '
    '[ "$l" = $mark ] && eval "$p"\' cardferry-guard '
)


def new_mark() -> str:
    """A word that names one guard, on its command line and in its record of the socket that it owns."""
    return "cardferry-" + secrets.token_hex(8)


def new_word() -> str:
    """A secret word that begins each line which one guard says."""
    return secrets.token_hex(16)


def number(text: str) -> int | None:
    """The number in a word that the other side says; None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def bootstrap(mark: str) -> str:
    """The remote command; only single quotes outside, no ``!``: sh, bash, zsh, ksh, fish and csh take it alike."""
    return _BOOTSTRAP + mark


def program(mark: str, word: str) -> bytes:
    """What to send when the guard has said ``boot``: its word, its program without comments, and the closing line."""
    text = resources.files(__package__).joinpath("guard.sh").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return "\n".join([f"word={word}", *lines, mark, ""]).encode()


def request(identifier: int, verb: str, *arguments: str) -> bytes:
    """One request line."""
    return (" ".join([str(identifier), verb, *map(shlex.quote, arguments)]) + "\n").encode(errors="surrogateescape")


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
            case "uid" | "session" if (said := number(value)) is not None:
                setattr(self, key, said)
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
