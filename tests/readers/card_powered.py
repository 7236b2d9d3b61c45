"""A card that tells whether it has power, as no real one without power could: its answer is 01 or 00, then 9000."""

from __future__ import annotations

from tests.lab.dial_in import OFF, command_line, serve


class PoweredCard:
    def __init__(self) -> None:
        self._powered = False

    def atr(self) -> bytes:
        return bytes.fromhex("3B80800101")

    def power(self, order: int) -> None:
        self._powered = order != OFF

    def process(self, apdu: bytes) -> bytes:
        return bytes((self._powered,)) + b"\x90\x00"


if __name__ == "__main__":
    options = command_line("card_powered").parse_args()
    serve(PoweredCard(), options.host, options.port)
