"""An OpenPGP card that nobody here wrote: PyPI's `jcecard`."""

from __future__ import annotations

from pathlib import Path

from jcecard.main import OpenPGPCard

from tests.lab.dial_in import OFF, ON, command_line, serve


class JceCard:
    """jcecard's card object as `dial_in.Card`.

    Args:
        storage: the folder where it keeps keys.
    """

    def __init__(self, storage: Path) -> None:
        storage.mkdir(parents=True, exist_ok=True)
        self._card = OpenPGPCard(storage_path=storage)

    def atr(self) -> bytes:
        """Its own ATR."""
        return bytes(self._card.get_atr())

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
        return bytes(self._card.process_apdu(apdu))


if __name__ == "__main__":
    _parser = command_line("card_openpgp")
    _parser.add_argument("--storage", type=Path, required=True)
    _options = _parser.parse_args()
    serve(JceCard(_options.storage), _options.host, _options.port)
