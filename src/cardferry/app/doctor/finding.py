"""What a probe finds."""

from __future__ import annotations

from enum import Enum

import msgspec


class State(Enum):
    """How bad it is."""

    OK = "ok"
    #: Worth knowing; nothing needs to be done.
    NOTE = "note"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        probe: what was looked at, in a word or two.
        state: how bad it is.
        says: what was found, one sentence.
        hint: what to do, empty when there is nothing to do.
    """

    probe: str
    state: State
    says: str
    hint: str = ""


def ok(probe: str, says: str) -> Finding:
    """All is well."""
    return Finding(probe, State.OK, says)


def note(probe: str, says: str, hint: str = "") -> Finding:
    """Worth knowing."""
    return Finding(probe, State.NOTE, says, hint)


def problem(probe: str, says: str, hint: str) -> Finding:
    """To be mended."""
    return Finding(probe, State.PROBLEM, says, hint)
