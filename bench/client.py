"""The measuring program: an ordinary PC/SC client over the system's libpcsclite, on a computer of the lab.

Executed by the system's Python as ``python3 -m bench.client``, with the standard library only. It takes orders, one
JSON object a line on standard input, and answers each with one line. An order begins with a context and a handle of
its own and leaves nothing open, so that whoever measures next finds the card alone.

    {"order": "apdu", "reader": NAME, "count": N}      lone transmits, one after another
    {"order": "turn", "reader": NAME, "count": N}      begin, transmit, end
    {"order": "setup", "reader": NAME, "count": N}     establish, list, connect (disconnecting is not timed)
    {"order": "program", "argv": [WORDS]}              a program from its start to its end

The first two take "command", in hex, to send instead of a SELECT.

Answers: {"durations": [SECONDS]}, a program's with "code", "out" and "err", or {"error": TEXT}.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from typing import Any

from tests.lab.pcsc_client import Card, Context, Library, ScardError

SELECT = bytes.fromhex("00A4040000")


def apdus(card: Card, command: bytes, count: int) -> list[float]:
    """Time lone transmits."""
    durations = []
    for _ in range(count):
        start = time.perf_counter()
        card.transmit(command)
        durations.append(time.perf_counter() - start)
    return durations


def turns(card: Card, command: bytes, count: int) -> list[float]:
    """Time transactions of one APDU."""
    durations = []
    for _ in range(count):
        start = time.perf_counter()
        card.begin()
        card.transmit(command)
        card.end()
        durations.append(time.perf_counter() - start)
    return durations


def with_card(library: Library, order: dict[str, Any]) -> list[float]:
    """Connect, touch the card once, measure, disconnect."""
    context = Context(library)
    card = context.connect(context.find(order["reader"]))
    card.transmit(SELECT)
    command = bytes.fromhex(order["command"]) if "command" in order else SELECT
    durations = (apdus if order["order"] == "apdu" else turns)(card, command, order["count"])
    card.disconnect()
    context.release()
    return durations


def setups(library: Library, order: dict[str, Any]) -> list[float]:
    """Time the way to a connected card."""
    durations = []
    for _ in range(order["count"]):
        start = time.perf_counter()
        context = Context(library)
        card = context.connect(context.find(order["reader"]))
        durations.append(time.perf_counter() - start)
        card.disconnect()
        context.release()
    return durations


def program(argv: list[str]) -> dict[str, Any]:
    """Time a whole program; its output may be anything."""
    start = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    duration = time.perf_counter() - start
    out, err = (text.decode("latin-1") for text in (done.stdout, done.stderr))
    return {"durations": [duration], "code": done.returncode, "out": out, "err": err}


def obey(library: Library, order: dict[str, Any]) -> dict[str, Any]:
    """One order."""
    if order["order"] == "program":
        return program(order["argv"])
    measure = setups if order["order"] == "setup" else with_card
    try:
        return {"durations": measure(library, order)}
    except ScardError as error:
        return {"error": str(error)}


def main() -> None:
    """Obey until standard input ends; garbage is collected between orders only."""
    library = Library()
    print("ready", flush=True)
    for line in sys.stdin:
        gc.collect()
        gc.disable()
        answer = obey(library, json.loads(line))
        gc.enable()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
