"""cardferry's built-in PIV card, in a reader of a real pcscd."""

from __future__ import annotations

import time

from cardferry.cards import PivCard
from cardferry.pcsc.virtual_card import VirtualCard
from tests.lab.dial_in import OFF, ON, command_line, serve


class DialledCard:
    """A `VirtualCard` as `dial_in.Card`.

    Args:
        card: it.
        delay: s that it takes for every APDU.
    """

    def __init__(self, card: VirtualCard, delay: float = 0.0) -> None:
        self._card = card
        self._delay = delay

    def atr(self) -> bytes:
        """Its own ATR."""
        return self._card.atr

    def power(self, order: int) -> None:
        """Off, on, reset."""
        if order == OFF:
            self._card.power_off()
        elif order == ON:
            self._card.power_on()
        else:
            self._card.reset()

    def process(self, apdu: bytes) -> bytes:
        """Its own answer."""
        if self._delay:
            time.sleep(self._delay)
        return self._card.process(apdu)


if __name__ == "__main__":
    _parser = command_line("card_piv")
    _parser.add_argument("--delay", type=float, default=0.0)
    _options = _parser.parse_args()
    serve(DialledCard(PivCard.personalised(), _options.delay), _options.host, _options.port, _options.stay)
