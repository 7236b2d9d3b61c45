"""An OpenPGP card that nobody here wrote: PyPI's `jcecard`, and one command that it lacks and OpenSC wants.

SELECT DATA (OpenPGP card 3.4.1, 7.2.5) chooses which of the three cardholder certificates GET DATA and PUT DATA are
about; the first one is jcecard's, the others are never there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jcecard.main import OpenPGPCard

from tests.lab.dial_in import OFF, ON, command_line, serve

_SELECT_DATA, _SELECT, _GET_DATA, _PUT_DATA = 0xA5, 0xA4, 0xCA, 0xDA
#: P2 and data of the only SELECT DATA that there is: by a list of tags, of which the last is the certificate's.
_BY_TAG: Final = 0x04
_CERTIFICATE: Final = bytes.fromhex("7F21")
_MOST_CERTIFICATES: Final = 3
_SUCCESS, _NOT_FOUND = b"\x90\x00", b"\x6a\x88"


class JceCard:
    """jcecard's card object as `dial_in.Card`.

    Args:
        storage: the folder where it keeps keys.
    """

    def __init__(self, storage: Path) -> None:
        storage.mkdir(parents=True, exist_ok=True)
        self._card = OpenPGPCard(storage_path=storage)
        self._certificate = 0

    def atr(self) -> bytes:
        """Its own ATR."""
        return bytes(self._card.get_atr())

    def power(self, order: int) -> None:
        """Off, on, reset."""
        self._certificate = 0
        if order == OFF:
            self._card.power_off()
        elif order == ON:
            self._card.power_on()
        else:
            self._card.reset()

    def process(self, apdu: bytes) -> bytes:
        """Its own answer, but to what concerns the certificates."""
        instruction = apdu[1] if len(apdu) >= 5 else 0
        if instruction == _SELECT_DATA and apdu[0] == 0 and apdu[3] == _BY_TAG:
            if apdu[2] >= _MOST_CERTIFICATES or _CERTIFICATE not in apdu[5:]:
                return _NOT_FOUND
            self._certificate = apdu[2]
            return _SUCCESS
        if instruction == _SELECT:
            self._certificate = 0
        if self._certificate and instruction in (_GET_DATA, _PUT_DATA) and apdu[2:4] == _CERTIFICATE:
            return _SUCCESS if instruction == _GET_DATA else _NOT_FOUND
        return bytes(self._card.process_apdu(apdu))


if __name__ == "__main__":
    _parser = command_line("card_openpgp")
    _parser.add_argument("--storage", type=Path, required=True)
    _options = _parser.parse_args()
    serve(JceCard(_options.storage), _options.host, _options.port)
