"""Cards made of software: the built-in card, so that real programs can sign with nothing plugged in.

A card is a `cardferry.pcsc.virtual_card.VirtualCard`. How an APDU passes through one: the bytes are parsed
(`cardferry.pcsc.apdu`), commands sent in pieces are put together and long responses handed out in pieces
(`chaining`), and what is then one command and one response goes to the application (`piv`).
Nothing here does input or output, except saving a card to a file when asked to.
"""

from cardferry.cards.piv import PivCard

__all__ = ["PivCard"]
