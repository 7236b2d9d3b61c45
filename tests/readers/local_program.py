"""An unmodified program on the host, as libpcsclite makes it: a transaction every now and then.

Run by the system's Python: ``local_program.py READER TURNS PAUSE``. Prints how long each BEGIN took, in s, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from pcsc_client import Context, Library  # type: ignore[import-not-found]


def main(reader: str, turns: int, pause: float) -> None:
    begin = time.monotonic()
    context = Context(Library())
    card = context.connect(context.find(reader))
    connected = time.monotonic() - begin
    waits = []
    for _ in range(turns):
        time.sleep(pause)
        asked = time.monotonic()
        card.begin()
        waits.append(time.monotonic() - asked)
        card.transmit(bytes.fromhex("00A4040000"))
        card.end()
    print(json.dumps({"connected": connected, "waits": waits}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
