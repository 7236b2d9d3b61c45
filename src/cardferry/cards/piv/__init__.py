"""A PIV card: NIST SP 800-73-5 and SP 800-78-5, with the extensions that `yubico-piv-tool` needs.

`card.PivCard` is the card. Its application's memory is in `application`, its instructions in
`pin_instructions`, `data_instructions`, `key_instructions` and `yubico_instructions`, and what they work on in
`reference_data`, `objects`, `management_key`, `keys` and `certificates`. `storage` keeps a card in a file.
"""

from cardferry.cards.piv.application import Contents
from cardferry.cards.piv.card import PivCard
from cardferry.cards.piv.keys import Algorithm, PinPolicy, Slot

__all__ = ["Algorithm", "Contents", "PinPolicy", "PivCard", "Slot"]
