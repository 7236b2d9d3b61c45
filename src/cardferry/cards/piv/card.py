"""The built-in PIV card.

Implements NIST SP 800-73-5 part 2 (contact interface, without secure messaging, biometrics and global PIN) and
Yubico's extensions to it, on ISO 7816-4 commands and T=1. A command passes through `PivCard.process`: it is parsed,
its class checked, put together with the pieces that came before, dispatched by its instruction, and the response
handed out in pieces as the client asks.

It is made for demonstrations, tests and trying things out. It keeps its secrets in this process's memory.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Self
from uuid import UUID, uuid4

from cryptography.exceptions import UnsupportedAlgorithm

from cardferry.cards.chaining import CommandChain, ResponseChain
from cardferry.cards.piv import (
    data_instructions,
    key_instructions,
    pin_instructions,
    storage,
    yubico_instructions,
)
from cardferry.cards.piv.application import Application, Contents, Instruction
from cardferry.cards.piv.certificates import self_signed
from cardferry.cards.piv.keys import (
    Algorithm,
    KeyInputError,
    Origin,
    PrivateKey,
    Slot,
    SlotKey,
    default_pin_policy,
    generate,
)
from cardferry.cards.piv.management_key import Randomness
from cardferry.cards.piv.objects import (
    AID,
    ObjectStore,
    certificate_object,
    encode_certificate,
    initial_objects,
)
from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import ApduError, CommandApdu, StatusWord
from cardferry.pcsc.atr import checksum
from cardferry.pcsc.tlv import TlvError

_log = logging.getLogger(__name__)

#: Bytes of data of the longest command, whatever pieces it comes in.
MAX_COMMAND_SIZE: Final = 32 * 1024

#: Compact-TLV (ISO 7816-4:2020, 12.1.1): category 80, then the application's identifier (tag F).
_HISTORICAL: Final = bytes((0x80, 0xF0 | len(AID))) + AID
#: TS; T0 (TA1, TD1); TA1 = 13 (the card clocks faster); TD1: T=1; TD2: T=1 again; TA3 = FE (254-byte blocks); TB3.
_INTERFACE: Final = bytes((0x90 | len(_HISTORICAL), 0x13, 0x81, 0x31, 0xFE, 0x15))
#: T=1 only, the PIV application named in the historical bytes.
ATR: Final = b"\x3b" + _INTERFACE + _HISTORICAL + bytes((checksum(_INTERFACE + _HISTORICAL),))

_GENERATE: Final = 0x47
_AUTHENTICATE: Final = 0x87
_IMPORT: Final = 0xFE

_INSTRUCTIONS: Final[dict[int, Instruction]] = {
    **pin_instructions.INSTRUCTIONS,
    **data_instructions.INSTRUCTIONS,
    **key_instructions.INSTRUCTIONS,
    **yubico_instructions.INSTRUCTIONS,
}

#: The slots that a personalised card has keys in.
PERSONALISED_SLOTS: Final = (
    Slot.AUTHENTICATION,
    Slot.SIGNATURE,
    Slot.KEY_MANAGEMENT,
    Slot.CARD_AUTHENTICATION,
)


class PivCard:
    """A PIV card in software, a `cardferry.pcsc.virtual_card.VirtualCard`.

    Args:
        contents: what is on the card; an empty card with a random identity by default.
        random: source of challenges (keys come from the operating system always).
    """

    def __init__(self, contents: Contents | None = None, random: Randomness = secrets.token_bytes) -> None:
        self._application = Application(contents or empty_contents(), random)
        self._commands = CommandChain(MAX_COMMAND_SIZE)
        self._responses = ResponseChain()
        self._powered = False
        self._processed = 0

    @classmethod
    def personalised(
        cls,
        *,
        serial: int | None = None,
        guid: UUID | None = None,
        holder: str = "cardferry",
        rsa: bool = False,
        algorithms: Mapping[Slot, Algorithm] | None = None,
        keys: Mapping[Slot, PrivateKey] | None = None,
        certificates: Mapping[Slot, bytes] | None = None,
        not_before: datetime | None = None,
        random: Randomness = secrets.token_bytes,
    ) -> Self:
        """A card that can sign at once: keys and self-signed certificates in 9A, 9C, 9D and 9E.

        The PIN is 123456, the PUK 12345678, the management key Yubico's default.

        Args:
            serial: 0 to 2**32 - 1; random by default, like ``guid``.
            guid: the card's identity in its CHUID, which OpenSC shows as serial number.
            holder: common name in the certificates.
            rsa: 9C gets an RSA-2048 key, which takes some tenths of a second; else all are ECC P-256.
            algorithms: other algorithms, by slot; adds slots, too.
            keys: keys made before, by slot; adds slots, too.
            certificates: certificates made before (DER), by slot.
            not_before: begin of the certificates' validity, now by default.
            random: as for `PivCard`.
        """
        contents = empty_contents(serial, guid, holder)
        wanted = dict.fromkeys(PERSONALISED_SLOTS, Algorithm.P256)
        if rsa:
            wanted[Slot.SIGNATURE] = Algorithm.RSA2048
        wanted |= algorithms or {}
        private = dict(keys or {})
        for slot, algorithm in wanted.items():
            private.setdefault(slot, generate(algorithm))
        for slot, key in private.items():
            origin = Origin.IMPORTED if keys and slot in keys else Origin.GENERATED
            contents.keys[slot] = SlotKey(key, default_pin_policy(slot), origin)
            der = (certificates or {}).get(slot) or self_signed(key, slot, holder, not_before)
            contents.objects.put(certificate_object(slot), encode_certificate(der))
        return cls(contents, random)

    @classmethod
    def load(cls, path: Path, random: Randomness = secrets.token_bytes) -> Self:
        """The card that `save` wrote. Raises `storage.CardFileError`, or `OSError`."""
        return cls(storage.load(path), random)

    def save(self, path: Path) -> None:
        """Write the card to a file, which only its owner can read. Raises `OSError`."""
        storage.save(self.contents, path)

    @property
    def atr(self) -> bytes:
        """The answer to reset."""
        return ATR

    @property
    def contents(self) -> Contents:
        """What is on the card."""
        return self._application.contents

    @property
    def revision(self) -> int:
        """Grows whenever `contents` change: PIN tries, keys, objects. Compare to know whether to save."""
        return self._application.revision

    @property
    def processed(self) -> int:
        """APDUs processed so far, whatever the answer was."""
        return self._processed

    def power_on(self) -> bytes:
        """Power the card; see `VirtualCard`."""
        self._forget_session()
        self._powered = True
        return ATR

    def reset(self) -> bytes:
        """Reset the card; see `VirtualCard`."""
        return self.power_on()

    def power_off(self) -> None:
        """Take the power away. A card without power answers ``6F00``, where a real one would be silent."""
        self._forget_session()
        self._powered = False

    def process(self, apdu: bytes) -> bytes:
        """Answer a command; see `VirtualCard`."""
        self._processed += 1
        if not self._powered:
            return StatusWord.NO_PRECISE_DIAGNOSIS.encode()
        try:
            return self._answer(CommandApdu.parse(apdu))
        except ApduError:
            return StatusWord.WRONG_LENGTH.encode()
        except StatusError as error:
            _log.debug("command refused: %s", error)
            return error.status.encode()
        except (TlvError, KeyInputError) as error:
            _log.debug("command refused: %s", error)
            return StatusWord.WRONG_DATA.encode()
        except UnsupportedAlgorithm as error:
            _log.warning("this computer's cryptography cannot do what the card was asked for: %s", error)
            return StatusWord.FUNCTION_NOT_SUPPORTED.encode()

    def slow(self, apdu: bytes) -> bool:
        """Whether the command generates, imports or uses an RSA key; see `VirtualCard`."""
        try:
            command = self._commands.preview(CommandApdu.parse(apdu))
        except ApduError:
            return False
        if command is None:
            return False
        if command.ins == _GENERATE:
            algorithm = key_instructions.requested_algorithm(command)
            return algorithm is not None and algorithm.is_rsa
        if command.ins == _IMPORT:
            return command.p1 in (Algorithm.RSA2048, Algorithm.RSA3072)
        if command.ins == _AUTHENTICATE:
            key = next((key for slot, key in self.contents.keys.items() if slot == command.p2), None)
            return key is not None and key.algorithm.is_rsa
        return False

    def _answer(self, command: CommandApdu) -> bytes:
        _require_class(command)
        if command.is_get_response:
            return self._responses.next(command)
        self._responses.clear()
        whole = self._commands.add(command)
        if whole is None:
            return StatusWord.SUCCESS.encode()
        self._application.session.next_command()
        instruction = _INSTRUCTIONS.get(whole.ins)
        if instruction is None:
            raise StatusError(StatusWord.INS_NOT_SUPPORTED)
        return self._responses.first(instruction(self._application, whole), command)

    def _forget_session(self) -> None:
        self._application.reset()
        self._commands.clear()
        self._responses.clear()


def empty_contents(serial: int | None = None, guid: UUID | None = None, holder: str = "cardferry") -> Contents:
    """What is on a card that has an identity and nothing else. Arguments as for `PivCard.personalised`."""
    serial = secrets.randbits(32) if serial is None else serial
    guid = guid or uuid4()
    return Contents(serial, guid, objects=ObjectStore(initial_objects(guid, serial, holder)))


def _require_class(command: CommandApdu) -> None:
    if not command.interindustry:
        raise StatusError(StatusWord.CLA_NOT_SUPPORTED)
    if command.secure_messaging:
        raise StatusError(StatusWord.SECURE_MESSAGING_NOT_SUPPORTED)
    if command.channel:
        raise StatusError(StatusWord.CHANNEL_NOT_SUPPORTED)
