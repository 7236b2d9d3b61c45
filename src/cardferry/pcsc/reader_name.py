"""Reader names as bytes and as text.

A name is whatever bytes its pcscd has: usually UTF-8, but drivers and configurations know other encodings, and pcscd
itself cuts a name that is too long in the middle of a character. Bytes that are not UTF-8 become lone surrogates in our
text (PEP 383), as in Python's own names of files, and so pass through us unchanged.
"""

from __future__ import annotations


def decode_reader_name(raw: bytes) -> str:
    """A name as text; every byte is kept."""
    return raw.decode("utf-8", "surrogateescape")


def encode_reader_name(name: str) -> bytes:
    """The bytes of a name. A surrogate that stands for no byte (`decode_reader_name` makes none) becomes ``?``."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "replace")


def shortened_reader_name(raw: bytes, size: int) -> bytes:
    """The first bytes of a name, ``size`` at most; a character goes as a whole."""
    for cut in range(min(size, len(raw)), max(-1, size - 4), -1):
        # No continuation byte of UTF-8 follows: nothing is cut in two.
        if cut == len(raw) or raw[cut] & 0xC0 != 0x80:
            return raw[:cut]
    return raw[:size]
