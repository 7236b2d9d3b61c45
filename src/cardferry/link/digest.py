"""What a guest sends of an answer that it has believed, so that the host can compare it with what the card says."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

#: Bytes.
DIGEST_SIZE: Final = 8


def digest_of(response: bytes) -> bytes:
    """The digest of an answer."""
    return blake2b(response, digest_size=DIGEST_SIZE).digest()
