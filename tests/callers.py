"""Callers for tests."""

from __future__ import annotations

from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program

TESTER = Principal(PrincipalKind.LOCAL_USER, "tester")


def somebody(name: str = "somebody", pid: int | None = None, uid: int | None = None) -> Caller:
    """A program on this computer, of the account that runs the tests."""
    return Caller(TESTER, Program(name, pid, uid, proved=True))
