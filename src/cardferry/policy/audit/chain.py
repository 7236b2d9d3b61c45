"""Lines of JSON, each of which is bound to all before it.

A line ends with ``"hash"``: SHA-256 of the hash of the line before it and of this line without that field. So a line
that is changed, missing, put in or moved does not fit the next one, and the last one does not fit itself. A file begins
with a line that names the hash of the file before it.

What this does not prevent: who may write the file can make all hashes anew, or leave out the end. A copy of the last
hash in another place (an anchor) shows that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import msgspec

#: What the first line of the first file follows.
NOTHING: Final = "0" * 64
BEGINS: Final = "begins"
_HASH: Final = b',"hash":"'
_END: Final = b'"}'
_HASH_SIZE: Final = 64


@dataclass(slots=True)
class Entry:
    """One line.

    Attributes:
        at: when, in s since 1970.
        event: ``done``, ``denied``, ``began``, ``forgiven``, ``locked`` and so on.
        principal: on whose behalf, as this computer has proved it.
        program: which program, in words.
        proved: whether this computer knows that; otherwise the guest says so.
        reader: the reader's name.
        card: the card's answer to reset, in hexadecimal digits.
        operation: as rules write it, such as ``sign:9C``.
        what: the same in words.
        digest: what was signed, where the command shows it.
        rule: which rule has decided, in words.
        outcome: how it ended, in words.
        seconds: how long that took.
        times: how often it has happened since the last such line, with this one.
    """

    at: float
    event: str
    principal: str = ""
    program: str = ""
    proved: bool = False
    reader: str = ""
    card: str = ""
    operation: str = ""
    what: str = ""
    digest: str = ""
    rule: str = ""
    outcome: str = ""
    seconds: float = 0.0
    times: int = 1


_FIELDS: Final = tuple(field.name for field in fields(Entry))


def line(said: dict[str, Any], previous: str) -> tuple[bytes, str]:
    """A line, with its end of line, and its hash.

    Args:
        previous: the hash of the line before it.
    """
    body = msgspec.json.encode(said)
    if not body.isascii():  # what is not, such as marks that turn the direction of writing, is written out
        body = json.dumps(said, separators=(",", ":")).encode()
    digest = _hash(previous, body)
    return body[:-1] + _HASH + digest.encode() + _END + b"\n", digest


def entry_line(entry: Entry, previous: str) -> tuple[bytes, str]:
    """The line of an entry; what it does not say is left out."""
    said = {name: value for name in _FIELDS if (value := getattr(entry, name)) != ""}
    if entry.times == 1:
        del said["times"]
    return line(said, previous)


def first_line(at: float, previous: str) -> tuple[bytes, str]:
    """The first line of a file, after the last one of another file or `NOTHING`."""
    return line({"at": at, "event": BEGINS, "previous": previous}, previous)


def hash_of(raw: bytes) -> str | None:
    """The hash that a line says it has; None when it is no line of ours."""
    text = raw.rstrip(b"\n")
    if not text.endswith(_END) or text[-_HASH_SIZE - len(_END) - len(_HASH) :][: len(_HASH)] != _HASH:
        return None
    return text[-_HASH_SIZE - len(_END) : -len(_END)].decode(errors="replace")


def _hash(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which line, counted from 1."""

    line: int
    what: str


def check(lines: Iterable[bytes], previous: str | None = None) -> Iterator[str | Problem]:
    """The hash of each line, up to the first one that does not fit, which becomes a `Problem`.

    Args:
        lines: of one file, with their ends of line.
        previous: the last hash of the file before it, if that is at hand.
    """
    expected = previous
    number = 0
    for number, raw in enumerate(lines, start=1):
        said = hash_of(raw)
        if said is None or not raw.endswith(b"\n"):
            yield Problem(number, "it is no line of an audit, or cut short")
            return
        body = raw[: -_HASH_SIZE - len(_END) - len(_HASH) - 1] + b"}"
        if number == 1:
            follows = _follows(body)
            if follows is None:
                yield Problem(1, "the file does not begin with its first line: lines are missing before it")
                return
            if expected is not None and follows != expected:
                yield Problem(1, "it does not follow the file before it: lines are missing in between")
                return
            expected = follows
        if _hash(str(expected), body) != said:
            yield Problem(number, "it was changed, or lines before it were changed, left out or moved")
            return
        expected = said
        yield said
    if not number:
        yield Problem(1, "the file is empty")


def _follows(body: bytes) -> str | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("event") != BEGINS:
        return None
    return str(said.get("previous"))
