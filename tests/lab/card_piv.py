"""cardferry's built-in PIV card, in a reader of a real pcscd."""

from __future__ import annotations

from cardferry.cards import PivCard
from cardferry.pcsc.virtual_card import VirtualCard
from tests.lab.dial_in import OFF, ON, command_line, serve


class DialledCard:
    """A `VirtualCard` as `dial_in.Card`."""

    def __init__(self, card: VirtualCard) -> None:
        self._card = card

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
        return self._card.process(apdu)


if __name__ == "__main__":
    _options = command_line("card_piv").parse_args()
    serve(DialledCard(PivCard.personalised()), _options.host, _options.port, _options.stay)
