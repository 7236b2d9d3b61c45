"""A CAC card that nobody here wrote: `libcacard` (SPICE), with certificates of an NSS database, through ctypes.

The functions and their meaning: libcacard's `vreader.h` and `vcard_emul.h`.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p

from tests.lab.dial_in import OFF, command_line, serve

_MAX_ATR, _MAX_RESPONSE = 64, 65600
_READER_OK = 0


def _library() -> ctypes.CDLL:
    """libcacard with the signatures of what is used here."""
    library = ctypes.CDLL("libcacard.so.0")
    for name, result, arguments in (
        ("vcard_emul_options", c_void_p, [c_char_p]),
        ("vcard_emul_init", c_int, [c_void_p]),
        ("vreader_get_reader_list", c_void_p, []),
        ("vreader_list_get_first", c_void_p, [c_void_p]),
        ("vreader_list_get_next", c_void_p, [c_void_p]),
        ("vreader_list_get_reader", c_void_p, [c_void_p]),
        ("vreader_card_is_present", c_int, [c_void_p]),
        ("vreader_power_on", c_int, [c_void_p, c_char_p, POINTER(c_int)]),
        ("vreader_power_off", c_int, [c_void_p]),
        ("vreader_xfr_bytes", c_int, [c_void_p, c_char_p, c_int, c_char_p, POINTER(c_int)]),
    ):
        function = getattr(library, name)  # getattr, not []: only this one is kept by the library object
        function.restype, function.argtypes = result, arguments
    return library


class CacCard:
    """libcacard's first reader with a card as `dial_in.Card`.

    Args:
        database: folder of an NSS database.
        nicknames: three certificates in it.
    """

    def __init__(self, database: str, nicknames: list[str]) -> None:
        self._library = _library()
        words = f'db="sql:{database}" use_hw=no soft=(,Virtual Reader,CAC,,{",".join(nicknames)})'
        options = self._library.vcard_emul_options(words.encode())
        if not options or self._library.vcard_emul_init(options) != 0:
            sys.exit("libcacard does not start")
        self._reader = self._find()
        self._atr = b""
        self._buffer = ctypes.create_string_buffer(_MAX_RESPONSE)
        self.power(1)

    def _find(self) -> int:
        library = self._library
        entry = library.vreader_list_get_first(library.vreader_get_reader_list())
        while entry:
            reader: int = library.vreader_list_get_reader(entry)
            if library.vreader_card_is_present(reader) == _READER_OK:
                return reader
            entry = library.vreader_list_get_next(entry)
        sys.exit("libcacard has no card")

    def atr(self) -> bytes:
        """Its own ATR."""
        return self._atr

    def power(self, order: int) -> None:
        """Off, on; a reset is another on."""
        if order == OFF:
            self._library.vreader_power_off(self._reader)
            return
        atr, size = ctypes.create_string_buffer(_MAX_ATR), c_int(_MAX_ATR)
        self._library.vreader_power_on(self._reader, atr, byref(size))
        self._atr = atr.raw[: size.value]

    def process(self, apdu: bytes) -> bytes:
        """Its own answer."""
        size = c_int(_MAX_RESPONSE)
        if self._library.vreader_xfr_bytes(self._reader, apdu, len(apdu), self._buffer, byref(size)) != _READER_OK:
            return b"\x6f\x00"
        return self._buffer.raw[: size.value]


if __name__ == "__main__":
    _parser = command_line("card_cac")
    _parser.add_argument("--database", required=True)
    _parser.add_argument("nicknames", nargs=3)
    _options = _parser.parse_args()
    serve(CacCard(_options.database, _options.nicknames), _options.host, _options.port)
