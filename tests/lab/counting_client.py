"""A PC/SC program that asks the fake card (`card_fake`) for its count, again and again, and forgets no answer.

Executed by the system's Python as ``python3 -m tests.lab.counting_client READER SEED``, with the standard library only.
Each command increments the card's counter and returns it, so the answers of all such programs together are every
number once, unless a command was lost, or carried out twice. Ends when a line comes in, or at the first error.
Says `counting`, and in the end {"answers": [...], "error": TEXT or null}.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import threading

from tests.lab.pcsc_client import Card, Context, Library, ScardError

COUNT = bytes.fromhex("80200000")


def ask(card: Card, answers: list[int]) -> None:
    """One command."""
    (count,) = struct.unpack(">I2x", card.transmit(COUNT))
    answers.append(count)


def work(library: Library, reader: str, answers: list[int], chance: random.Random, stop: threading.Event) -> None:
    """What programs do, in any order: connections, transactions, lone commands."""
    while not stop.is_set():
        context = Context(library)
        card = context.connect(context.find(reader))
        for _ in range(chance.randint(1, 30)):
            if stop.is_set():
                break
            if chance.random() < 0.5:
                ask(card, answers)
                continue
            card.begin()
            for _ in range(chance.randint(1, 4)):
                ask(card, answers)
            card.end()
        card.disconnect()
        context.release()


def main() -> None:
    """Count until told to stop."""
    reader, seed = sys.argv[1], int(sys.argv[2])
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    answers: list[int] = []
    error = None
    print("counting", flush=True)
    try:
        work(Library(), reader, answers, random.Random(seed), stop)
    except ScardError as problem:
        error = str(problem)
    print(json.dumps({"answers": answers, "error": error}), flush=True)


if __name__ == "__main__":
    main()
