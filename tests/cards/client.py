"""What a PIV client does with a card: commands in every way that lengths can be said, and its two log-ins."""

from __future__ import annotations

from enum import Enum

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from cardferry.cards.piv import PivCard
from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import CommandApdu, ResponseApdu, StatusWord

PIN = b"123456\xff\xff"
PUK = b"12345678"
MANAGEMENT_KEY = bytes.fromhex("010203040506070801020304050607080102030405060708")


class Lengths(Enum):
    """How a client says lengths."""

    EXTENDED = "extended lengths"
    CHAINED = "pieces of 255 bytes, GET RESPONSE"
    NO_LE = "pieces of 255 bytes, no Le, GET RESPONSE"


class Client:
    """A client of one card.

    Args:
        card: powered by the client.
        lengths: how it says lengths, for all commands.
    """

    def __init__(self, card: PivCard, lengths: Lengths = Lengths.CHAINED) -> None:
        self.card = card
        self.lengths = lengths
        card.power_on()

    def send(
        self, ins: int, p1: int = 0, p2: int = 0, data: bytes = b"", lengths: Lengths | None = None
    ) -> ResponseApdu:
        """One command and its whole response, whatever number of APDUs that takes."""
        lengths = lengths or self.lengths
        if lengths is Lengths.EXTENDED:
            return self.transmit(CommandApdu(0, ins, p1, p2, data, 65536, extended=True))
        while len(data) > 255:
            piece, data = data[:255], data[255:]
            response = self.transmit(CommandApdu(0x10, ins, p1, p2, piece))
            if response != ResponseApdu(b"", StatusWord.SUCCESS):
                return response
        response = self.transmit(CommandApdu(0, ins, p1, p2, data, 256 if lengths is Lengths.CHAINED else 0))
        assert len(response.data) <= 256
        collected = response.data
        while (remaining := response.status.remaining) is not None:
            response = self.transmit(CommandApdu(0, 0xC0, 0, 0, ne=remaining))
            collected += response.data
        return ResponseApdu(collected, response.status)

    def transmit(self, command: CommandApdu) -> ResponseApdu:
        """One APDU."""
        return ResponseApdu.parse(self.card.process(command.encode()))

    def hex(self, text: str) -> str:
        """One APDU in hexadecimal digits, and the response likewise."""
        return self.card.process(bytes.fromhex(text)).hex().upper()

    def status(self, ins: int, p1: int = 0, p2: int = 0, data: bytes = b"") -> int:
        """The status word of a command that has no other answer."""
        response = self.send(ins, p1, p2, data)
        assert response.data == b""
        return response.status

    def verify(self, pin: bytes = PIN) -> int:
        """VERIFY; the status word."""
        return self.status(0x20, 0, 0x80, pin)

    def tries(self) -> int:
        """VERIFY without data: the status word."""
        return self.status(0x20, 0, 0x80)

    def get(self, tag: str) -> ResponseApdu:
        """GET DATA."""
        name = bytes.fromhex(tag)
        return self.send(0xCB, 0x3F, 0xFF, b"\x5c" + bytes((len(name),)) + name)

    def put(self, tag: str, content: bytes) -> int:
        """PUT DATA; the status word."""
        name = bytes.fromhex(tag)
        data = b"\x5c" + bytes((len(name),)) + name + tlv.encode(0x53, content)
        return self.status(0xDB, 0x3F, 0xFF, data)

    def authenticate(self, algorithm: int, key: int, *parts: tuple[int, bytes]) -> ResponseApdu:
        """GENERAL AUTHENTICATE with these data objects in its template."""
        template = tlv.encode(0x7C, *(tlv.encode(tag, value) for tag, value in parts))
        return self.send(0x87, algorithm, key, template)

    def sign(self, algorithm: int, key: int, challenge: bytes) -> ResponseApdu:
        """GENERAL AUTHENTICATE with a private key."""
        return self.authenticate(algorithm, key, (0x82, b""), (0x81, challenge))

    def generate(self, key: int, algorithm: int, *parts: bytes) -> ResponseApdu:
        """GENERATE ASYMMETRIC KEY PAIR."""
        control = tlv.encode(0xAC, tlv.encode(0x80, bytes((algorithm,))), *parts)
        return self.send(0x47, 0, key, control)

    def administrator(self, key: bytes = MANAGEMENT_KEY, algorithm: int = 0x03) -> int:
        """Mutual authentication with the management key; the status word. Checks the card's proof."""
        answer = self.authenticate(algorithm, 0x9B, (0x80, b""))
        assert answer.status == 0x9000
        witness = block(algorithm, key, only(only(answer.data, 0x7C), 0x80), decrypt=True)
        challenge = bytes(range(len(witness)))
        answer = self.authenticate(algorithm, 0x9B, (0x80, witness), (0x81, challenge))
        if answer.status == 0x9000:
            assert only(only(answer.data, 0x7C), 0x82) == block(algorithm, key, challenge)
        return answer.status


def block(algorithm: int, key: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
    """One block of triple DES or AES."""
    kind = TripleDES(key) if algorithm == 0x03 else AES(key)
    cipher: Cipher[modes.ECB] = Cipher(kind, modes.ECB())
    context = cipher.decryptor() if decrypt else cipher.encryptor()
    return context.update(data) + context.finalize()


def only(data: bytes, tag: int) -> bytes:
    """The value of the only data object."""
    return tlv.parse_one(data, tag)
