"""What the host's rules and audit cost a command: CPU time with the guard and without it, in turns.

    python -m bench.guard [on|required]

The reader answers at once, so what is measured is the guard: what a program waits for until it has the answer, and
apart from that what is written down afterwards.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, NoReturn

from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.reply import Reply, answered
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard import Cards, HostGuard, guards
from cardferry.policy.rulebook import Rulebook

_RULES: Final = """
audit = "{audit}"
[[allow]]
who = ["ssh:build*"]
card = "Reader*"
may = ["read", "verify", "sign:9C"]
"""
_SELECT, _READ = bytes.fromhex("00A4040005A00000030800"), bytes.fromhex("00CB3FFF055C035FC10500")
_SIGN: Final = bytes.fromhex("0087119C267C2482008120" + "11" * 32 + "00")
_ANSWERS: Final = {_SELECT: bytes(19) + b"\x90\x00", _READ: bytes(256) + b"\x90\x00", _SIGN: bytes(72) + b"\x90\x00"}
_ROUNDS, _COMMANDS, _BATCH = 20, 500, 20


class Cost(NamedTuple):
    """Microseconds of CPU time for a command: until it has its answer, and afterwards."""

    waited: float
    afterwards: float


class AtOnce:
    """A reader whose card answers at once; see `cardferry.manager.guard.GuardedReader`."""

    name, protocol, atr = "Reader 00 00", Protocol.T1, bytes.fromhex("3b80800101")

    def send(self, principal: Principal, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """It is known what it says."""
        return answered(_ANSWERS[apdu])

    async def send_control(self, code: int, data: bytes, max_response: int) -> bytes:
        """There is nothing to control."""
        raise NotImplementedError

    async def start_over(self) -> NoReturn:
        """Nobody else comes."""
        raise NotImplementedError


async def _spent(send: Callable[[bytes], Reply[bytes]], apdu: bytes, later: Callable[[], object]) -> Cost:
    """For each command, until it is answered; and for what is done later, in batches as of a busy host."""
    waited = afterwards = 0
    for _ in range(_COMMANDS // _BATCH):
        before = time.process_time_ns()
        for _ in range(_BATCH):
            reply = send(apdu)
            if not reply.done():
                await reply
        between = time.process_time_ns()
        later()
        waited, afterwards = waited + between - before, afterwards + time.process_time_ns() - between
    return Cost(waited / _COMMANDS / 1000, afterwards / _COMMANDS / 1000)


async def measure(folder: Path, audit: str) -> dict[str, Cost]:
    """What the guard costs each of the commands."""
    rules = folder / "config.toml"
    rules.write_text(_RULES.format(audit=audit))
    rules.chmod(0o600)
    host, reader = HostGuard(Rulebook(lambda: rules, "owner"), AuditLog(folder / "audit.jsonl")), AtOnce()
    guard = guards(host, Cards(host))(reader)
    caller = Caller(Principal(PrincipalKind.SSH, "build1"), Program("a program", 1))

    def guarded(apdu: bytes) -> Reply[bytes]:
        return guard.transmit(caller, apdu, Protocol.T1)

    def bare(apdu: bytes) -> Reply[bytes]:
        return reader.send(caller.principal, apdu, Protocol.T1)

    await guarded(_SELECT)
    costs = {}
    for what, apdu in (("SELECT", _SELECT), ("GET DATA", _READ), ("sign", _SIGN)):
        pairs = [
            (await _spent(guarded, apdu, host.write), await _spent(bare, apdu, lambda: None)) for _ in range(_ROUNDS)
        ]
        costs[what] = Cost(*(median(one[part] - other[part] for one, other in pairs) for part in range(2)))
    host.write()
    return costs


def main() -> None:
    """Print what it costs."""
    audit = sys.argv[1] if len(sys.argv) > 1 else "on"
    with tempfile.TemporaryDirectory() as folder:
        for what, cost in asyncio.run(measure(Path(folder), audit)).items():
            print(f"{what:10}{cost.waited:8.1f} us until it is answered{cost.afterwards:8.1f} us afterwards")


if __name__ == "__main__":
    main()
