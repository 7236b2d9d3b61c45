"""The card management key 9B, and the three-message proof that the other side knows it.

Implements NIST SP 800-73-5 part 2, 3.2.4 and appendix A.1 and A.2: external authentication (the card's
challenge comes back encrypted) and mutual authentication (the card's encrypted witness comes back decrypted,
together with a challenge that the card encrypts).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from cardferry.cards.piv.keys import Algorithm

#: The key every new card has, three-key triple DES (Yubico's default, and that of most test cards).
DEFAULT_KEY: Final = bytes.fromhex("0102030405060708" * 3)

_CIPHERS: Final[dict[Algorithm, tuple[type[BlockCipherAlgorithm], int]]] = {
    Algorithm.TDES: (TripleDES, 24),
    Algorithm.AES128: (AES, 16),
    Algorithm.AES192: (AES, 24),
    Algorithm.AES256: (AES, 32),
}


class Randomness(Protocol):
    """``secrets.token_bytes``, or what a test puts in its place."""

    def __call__(self, nbytes: int, /) -> bytes:
        """That many random bytes."""
        ...


@dataclass(frozen=True, slots=True)
class ManagementKey:
    """A block cipher key. Raises `ValueError` when the key does not fit the algorithm."""

    algorithm: Algorithm = Algorithm.TDES
    key: bytes = field(default=DEFAULT_KEY, repr=False)

    def __post_init__(self) -> None:
        if self.algorithm not in _CIPHERS or len(self.key) != _CIPHERS[self.algorithm][1]:
            raise ValueError("the management key does not fit its algorithm")

    @property
    def block_size(self) -> int:
        """Bytes of a block: 8 or 16."""
        return 8 if self.algorithm is Algorithm.TDES else 16

    def encrypt(self, block: bytes) -> bytes:
        """Encrypt one block. The challenge-response of PIV is plain ECB of a single random block."""
        kind, _ = _CIPHERS[self.algorithm]
        cipher = Cipher(kind(self.key), modes.ECB())  # type: ignore[call-arg]  # noqa: S305
        encryptor = cipher.encryptor()
        return encryptor.update(block) + encryptor.finalize()


class Question(Enum):
    """What the administrator was asked to do with a block."""

    ENCRYPT = "external authentication"
    DECRYPT = "mutual authentication"


class Administration:
    """Whether the administrator is present, and which question he was asked last.

    Args:
        random: source of witnesses and challenges.
    """

    def __init__(self, random: Randomness) -> None:
        self._random = random
        self._asked: tuple[Question, bytes] | None = None
        self.authenticated = False

    def challenge(self, key: ManagementKey) -> bytes:
        """Begin external authentication: a block that shall come back encrypted."""
        block = self._random(key.block_size)
        self._asked = Question.ENCRYPT, key.encrypt(block)
        return block

    def witness(self, key: ManagementKey) -> bytes:
        """Begin mutual authentication: an encrypted block that shall come back decrypted."""
        block = self._random(key.block_size)
        self._asked = Question.DECRYPT, block
        return key.encrypt(block)

    def verify(self, question: Question, answer: bytes) -> bool:
        """Whether this answers the last question, and the question was this. It can be answered once."""
        asked, self._asked = self._asked, None
        self.authenticated = asked is not None and asked[0] is question and hmac.compare_digest(asked[1], answer)
        return self.authenticated
