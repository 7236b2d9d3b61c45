"""The keys of a PIV card: slots, algorithms, and what a private key can be asked to do.

Implements NIST SP 800-73-5 part 1, table 5 (key references) and SP 800-78-5, table 6-1 (algorithm
identifiers), the encodings of SP 800-73-5 part 2, 3.2.4 and 3.3.2, and the PIN policies and origins of Yubico's
extensions.

A PIV card does RSA on bare blocks: the host pads and unpads. `cryptography` offers no unpadded RSA, so that
one exponentiation is done here, blinded against timing and checked against faults; all else is `cryptography`'s.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import IntEnum
from math import gcd
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cardferry.pcsc import tlv

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

#: The only public exponent that PIV allows new keys to have (SP 800-78-5, 3.1).
PUBLIC_EXPONENT: Final = 65537

_TAG_MODULUS: Final = 0x81
_TAG_EXPONENT: Final = 0x82
_TAG_POINT: Final = 0x86


class Algorithm(IntEnum):
    """Algorithm identifiers (SP 800-78-5, table 6-1)."""

    TDES = 0x03
    RSA3072 = 0x05
    RSA2048 = 0x07
    AES128 = 0x08
    AES192 = 0x0A
    AES256 = 0x0C
    P256 = 0x11
    P384 = 0x14

    @property
    def is_rsa(self) -> bool:
        """Whether this is RSA, whose private operations and key generation take long."""
        return self in _RSA_BITS

    @property
    def is_asymmetric(self) -> bool:
        """Whether a slot can hold a key of this algorithm."""
        return self in _RSA_BITS or self in _CURVES


_RSA_BITS: Final = {Algorithm.RSA2048: 2048, Algorithm.RSA3072: 3072}
_CURVES: Final[dict[Algorithm, type[ec.EllipticCurve]]] = {
    Algorithm.P256: ec.SECP256R1,
    Algorithm.P384: ec.SECP384R1,
}
#: A digest as wide as the curve's field, so that ECDSA takes the whole of a left-padded value.
_FIELD_DIGESTS: Final[dict[Algorithm, hashes.HashAlgorithm]] = {
    Algorithm.P256: hashes.SHA256(),
    Algorithm.P384: hashes.SHA384(),
}


class Slot(IntEnum):
    """References of asymmetric keys (SP 800-73-5 part 1, table 5)."""

    RETIRED_1 = 0x82
    RETIRED_2 = 0x83
    RETIRED_3 = 0x84
    RETIRED_4 = 0x85
    RETIRED_5 = 0x86
    RETIRED_6 = 0x87
    RETIRED_7 = 0x88
    RETIRED_8 = 0x89
    RETIRED_9 = 0x8A
    RETIRED_10 = 0x8B
    RETIRED_11 = 0x8C
    RETIRED_12 = 0x8D
    RETIRED_13 = 0x8E
    RETIRED_14 = 0x8F
    RETIRED_15 = 0x90
    RETIRED_16 = 0x91
    RETIRED_17 = 0x92
    RETIRED_18 = 0x93
    RETIRED_19 = 0x94
    RETIRED_20 = 0x95
    AUTHENTICATION = 0x9A
    SIGNATURE = 0x9C
    KEY_MANAGEMENT = 0x9D
    CARD_AUTHENTICATION = 0x9E


class PinPolicy(IntEnum):
    """When a key needs the PIN (numbers of Yubico's extension; meanings of SP 800-73-5 part 1, table 5)."""

    NEVER = 1
    ONCE = 2
    ALWAYS = 3


def default_pin_policy(slot: Slot) -> PinPolicy:
    """What the standard asks for: 9C each time, 9E never, all others once a session."""
    if slot is Slot.SIGNATURE:
        return PinPolicy.ALWAYS
    return PinPolicy.NEVER if slot is Slot.CARD_AUTHENTICATION else PinPolicy.ONCE


class Origin(IntEnum):
    """Where a key came from (numbers of Yubico's GET METADATA)."""

    GENERATED = 1
    IMPORTED = 2


class KeyInputError(ValueError):
    """What a private key was asked to work on cannot be worked on."""


@dataclass(frozen=True, slots=True)
class SlotKey:
    """A private key in its slot. ``repr`` does not show the key."""

    private: PrivateKey = field(repr=False)
    pin_policy: PinPolicy
    origin: Origin

    @property
    def algorithm(self) -> Algorithm:
        """Which kind of key this is."""
        return algorithm_of(self.private)

    def respond(self, challenge: bytes) -> bytes:
        """Sign or decrypt (SP 800-73-5 part 2, 3.2.4, tag 81); raises `KeyInputError`.

        RSA: ``challenge`` is a whole padded block or ciphertext, the result likewise. ECC: it is a digest, of
        which the leftmost bits count if it is longer than the curve's field; the result is an ECDSA signature.
        """
        if isinstance(self.private, rsa.RSAPrivateKey):
            return _rsa_private_operation(self.private, challenge)
        if not challenge:
            raise KeyInputError("no digest")
        digest = _FIELD_DIGESTS[self.algorithm]
        size = digest.digest_size
        return self.private.sign(challenge[:size].rjust(size, b"\0"), ec.ECDSA(Prehashed(digest)))

    def agree(self, point: bytes) -> bytes:
        """The shared secret with the other side's uncompressed point (tag 85); raises `KeyInputError`."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            raise KeyInputError("an RSA key agrees on nothing")
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self.private.curve, point)
            return self.private.exchange(ec.ECDH(), peer)
        except ValueError as error:
            raise KeyInputError("not a point of the curve") from error


def algorithm_of(key: PrivateKey | PublicKey) -> Algorithm:
    """The algorithm of a key; raises `ValueError` when no PIV card has such keys."""
    for algorithm, bits in _RSA_BITS.items():
        if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and key.key_size == bits:
            return algorithm
    for algorithm, curve in _CURVES.items():
        if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and isinstance(key.curve, curve):
            return algorithm
    raise ValueError("not a kind of key that a PIV card has")


def generate(algorithm: Algorithm) -> PrivateKey:
    """A new private key; RSA takes some tenths of a second. Raises `ValueError` for symmetric algorithms."""
    if (bits := _RSA_BITS.get(algorithm)) is not None:
        return rsa.generate_private_key(PUBLIC_EXPONENT, bits)
    if (curve := _CURVES.get(algorithm)) is not None:
        return ec.generate_private_key(curve())
    raise ValueError(f"{algorithm.name} has no private keys")


def rsa_from_primes(algorithm: Algorithm, p: int, q: int) -> PrivateKey:
    """The RSA key with these primes and exponent 65537; raises `KeyInputError` when there is none."""
    phi = (p - 1) * (q - 1)
    if p * q >> _RSA_BITS[algorithm] - 1 != 1 or p == q or gcd(PUBLIC_EXPONENT, phi) != 1:
        raise KeyInputError("not the primes of such a key")
    try:
        return rsa.RSAPrivateNumbers(
            p=p,
            q=q,
            d=rsa.rsa_recover_private_exponent(PUBLIC_EXPONENT, p, q),
            dmp1=pow(PUBLIC_EXPONENT, -1, p - 1),
            dmq1=pow(PUBLIC_EXPONENT, -1, q - 1),
            iqmp=pow(q, -1, p),
            public_numbers=rsa.RSAPublicNumbers(PUBLIC_EXPONENT, p * q),
        ).private_key()
    except ValueError as error:
        raise KeyInputError("not the primes of such a key") from error


def ec_from_scalar(algorithm: Algorithm, scalar: int) -> PrivateKey:
    """The ECC key with this private number; raises `KeyInputError` when it is out of range."""
    try:
        return ec.derive_private_key(scalar, _CURVES[algorithm]())
    except (ValueError, TypeError) as error:
        raise KeyInputError("not a private number of the curve") from error


def public_template(key: PublicKey) -> bytes:
    """The data objects of a public key, which ``7F49`` wraps (SP 800-73-5 part 2, table 11)."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        modulus = numbers.n.to_bytes(key.key_size // 8, "big")
        exponent = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
        return tlv.encode(_TAG_MODULUS, modulus) + tlv.encode(_TAG_EXPONENT, exponent)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return tlv.encode(_TAG_POINT, point)


def _rsa_private_operation(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """RSADP / RSASP1 (RFC 8017, 5.1.2 and 5.2.1): the block, to the private power, modulo n."""
    numbers = key.private_numbers()
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    value = int.from_bytes(block, "big")
    if len(block) != key.key_size // 8 or value >= n:
        raise KeyInputError("not a block of this key")
    # a random number without an inverse would be a multiple of a prime: as likely as guessing the key
    blind = secrets.randbelow(n - 2) + 2
    blinded = value * pow(blind, e, n) % n
    by_p = pow(blinded, numbers.dmp1, numbers.p)
    by_q = pow(blinded, numbers.dmq1, numbers.q)
    power = by_q + numbers.q * ((by_p - by_q) * numbers.iqmp % numbers.p)
    if pow(power, e, n) != blinded:
        raise KeyInputError("the private key does not fit its public key")
    return (power * pow(blind, -1, n) % n).to_bytes(len(block), "big")
