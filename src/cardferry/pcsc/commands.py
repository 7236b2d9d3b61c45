"""The commands of the field: what instructions are called, and which only read. Pure.

Sources: ISO 7816-4:2020, table 5, and ISO 7816-8:2021, -9:2017; NIST SP 800-73-4 part 2; Yubico's extensions to PIV
(https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html) and to OpenPGP; OpenPGP card 3.4.1, 7.1;
GlobalPlatform Card Specification 2.3.1, 11; NIST IR 6887 (GSC-IS 2.1), 5.3, and OpenSC's `card-cac.c` (CAC).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from cardferry.pcsc.apdu import ApduError, CommandApdu
from cardferry.pcsc.applications import Application

_ISO_NAMES: Final = {
    0x04: "DEACTIVATE FILE",
    0x0C: "ERASE RECORD",
    0x0E: "ERASE BINARY",
    0x0F: "ERASE BINARY",
    0x20: "VERIFY",
    0x21: "VERIFY",
    0x22: "MANAGE SECURITY ENVIRONMENT",
    0x24: "CHANGE REFERENCE DATA",
    0x26: "DISABLE VERIFICATION REQUIREMENT",
    0x28: "ENABLE VERIFICATION REQUIREMENT",
    0x2A: "PERFORM SECURITY OPERATION",
    0x2C: "RESET RETRY COUNTER",
    0x44: "ACTIVATE FILE",
    0x46: "GENERATE KEY PAIR",
    0x47: "GENERATE KEY PAIR",
    0x70: "MANAGE CHANNEL",
    0x82: "EXTERNAL AUTHENTICATE",
    0x84: "GET CHALLENGE",
    0x86: "GENERAL AUTHENTICATE",
    0x87: "GENERAL AUTHENTICATE",
    0x88: "INTERNAL AUTHENTICATE",
    0xA0: "SEARCH BINARY",
    0xA1: "SEARCH BINARY",
    0xA2: "SEARCH RECORD",
    0xA4: "SELECT",
    0xA5: "SELECT DATA",
    0xB0: "READ BINARY",
    0xB1: "READ BINARY",
    0xB2: "READ RECORD",
    0xB3: "READ RECORD",
    0xC0: "GET RESPONSE",
    0xC2: "ENVELOPE",
    0xC3: "ENVELOPE",
    0xCA: "GET DATA",
    0xCB: "GET DATA",
    0xCC: "GET NEXT DATA",
    0xCD: "GET NEXT DATA",
    0xD0: "WRITE BINARY",
    0xD1: "WRITE BINARY",
    0xD2: "WRITE RECORD",
    0xD6: "UPDATE BINARY",
    0xD7: "UPDATE BINARY",
    0xD8: "PUT NEXT DATA",
    0xD9: "PUT NEXT DATA",
    0xDA: "PUT DATA",
    0xDB: "PUT DATA",
    0xDC: "UPDATE RECORD",
    0xDD: "UPDATE RECORD",
    0xE0: "CREATE FILE",
    0xE2: "APPEND RECORD",
    0xE4: "DELETE FILE",
    0xE6: "TERMINATE DF",
    0xE8: "TERMINATE EF",
    0xFE: "TERMINATE CARD USAGE",
}
#: Where an application calls an instruction otherwise.
_APPLICATION_NAMES: Final = {
    Application.PIV: {
        0xF6: "MOVE KEY",
        0xF7: "GET METADATA",
        0xF8: "GET SERIAL",
        0xF9: "ATTEST",
        0xFA: "SET PIN RETRIES",
        0xFB: "RESET",
        0xFD: "GET VERSION",
        0xFE: "IMPORT KEY",
        0xFF: "SET MANAGEMENT KEY",
    },
    Application.OPENPGP: {0xF1: "GET VERSION", 0xF2: "SET PIN RETRIES", 0xFB: "ATTEST"},
    Application.GLOBAL_PLATFORM: {
        0x50: "INITIALIZE UPDATE",
        0x78: "END R-MAC SESSION",
        0x7A: "BEGIN R-MAC SESSION",
        0xD8: "PUT KEY",
        0xE2: "STORE DATA",
        0xE4: "DELETE",
        0xE6: "INSTALL",
        0xE8: "LOAD",
        0xF0: "SET STATUS",
        0xF2: "GET STATUS",
    },
    Application.CAC: {
        0x42: "PRIVATE SIGN/DECRYPT",
        0x4C: "GET ACR",
        0x52: "READ BUFFER",
        0x56: "GET PROPERTIES",
        0x58: "UPDATE BUFFER",
    },
    Application.YUBIKEY_OTP: {0x01: "OTP COMMAND", 0x03: "READ STATUS"},
    Application.YUBIKEY_MANAGEMENT: {0x16: "SET MODE", 0x1C: "WRITE CONFIG", 0x1D: "READ CONFIG", 0x1F: "DEVICE RESET"},
}


def instruction_name(instruction: int, application: Application = Application.UNKNOWN) -> str:
    """What an instruction byte is called, such as ``GET DATA``, or ``instruction 42`` when it has no known name."""
    names = _APPLICATION_NAMES.get(application, {})
    return names.get(instruction) or _ISO_NAMES.get(instruction) or f"instruction {instruction:02X}"


# Commands that only read.

_SELECTED_BY: Final = frozenset({0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x09})
_FIRST_OCCURRENCE_MASK: Final = 0x03
#: P2 of READ RECORD, its three low bits: P1 is a number; this record, from it to the last, from the last to it.
_BY_NUMBER: Final = frozenset({0b100, 0b101, 0b110})
#: How the data of a command names data objects: a list of tags; and READ BINARY's offset.
_TAG_LIST, _OFFSET = 0x5C, 0x54
#: CAC's buffers: of tags and lengths, and of values (GSC-IS 2.1, 5.3.4).
_BUFFERS: Final = (1, 2)
#: OpenPGP's keys where a public key is read (OpenPGP card 3.4.1, 7.2.14).
_OPENPGP_KEYS: Final = (b"\xb6\x00", b"\xb8\x00", b"\xa4\x00")


def _plain(command: CommandApdu) -> bool:
    return not command.data


def _at(p1: int, p2: int) -> Callable[[CommandApdu], bool]:
    return lambda command: (command.p1, command.p2) == (p1, p2) and not command.data


def _select(command: CommandApdu) -> bool:
    return command.p1 in _SELECTED_BY and not command.p2 & _FIRST_OCCURRENCE_MASK


def _read_record(command: CommandApdu) -> bool:
    return command.p1 != 0 and command.p2 & 0x07 in _BY_NUMBER and not command.data


def _holds(tag: int) -> Callable[[CommandApdu], bool]:
    """The data is this one data object, with a short length."""
    return lambda command: command.data[:2] == bytes((tag, len(command.data) - 2 & 0x7F)) and len(command.data) > 2


def _read_buffer(command: CommandApdu) -> bool:
    """At a place of tags or values: which buffer, and how many bytes."""
    return len(command.data) == len(_BUFFERS) and command.data[0] in _BUFFERS


_Check = Callable[[CommandApdu], bool]

#: By class and instruction, whatever is selected.
_READING: Final[dict[tuple[int, int], _Check]] = {
    (0x00, 0x20): lambda command: command.p1 == 0 and not command.data,
    (0x00, 0xA4): _select,
    (0x00, 0xB0): lambda command: command.is_read_binary,
    (0x00, 0xB1): _holds(_OFFSET),
    (0x00, 0xB2): _read_record,
    (0x00, 0xCA): _plain,
    (0x80, 0xCA): _plain,
    (0x00, 0xCB): _holds(_TAG_LIST),
}
#: And what one application has besides.
_APPLICATION_READING: Final[dict[Application, dict[tuple[int, int], _Check]]] = {
    Application.PIV: {
        (0x00, 0xF7): lambda command: command.p1 == 0 and not command.data,
        (0x00, 0xF8): _at(0, 0),
        (0x00, 0xFD): _at(0, 0),
    },
    Application.OPENPGP: {
        (0x00, 0x47): lambda command: (command.p1, command.p2) == (0x81, 0x00) and command.data in _OPENPGP_KEYS,
        (0x00, 0xA5): lambda command: command.p2 == 0x04,
        (0x00, 0xF1): _at(0, 0),
    },
    Application.CAC: {
        (0x00, 0x4C): lambda command: command.p2 == 0,
        (0x00, 0x52): _read_buffer,
        (0x00, 0x56): lambda command: command.p2 == 0,
    },
    Application.YUBIKEY_OTP: {(0x00, 0x01): _at(0x10, 0), (0x00, 0x03): _at(0, 0)},
    Application.YUBIKEY_MANAGEMENT: {(0x00, 0x1D): lambda command: command.p2 == 0 and not command.data},
}
_MANAGE_SECURITY_ENVIRONMENT: Final = 0x22


def reads(
    apdu: bytes,
    application: Application = Application.UNKNOWN,
    *,
    fetching: bool = False,
    environment: Collection[bytes] = (),
) -> bool:
    """Whether a command only reads: what it does to the card is gone when the card is told to SELECT by name anew.

    Such a command's answer depends on the card's contents, on the security status, and on the commands since the last
    SELECT by name; so it may be remembered. Everything else *acts*: unknown instructions, other classes, secure
    messaging, pieces of a chain, places relative to the last one ("next record"), random numbers, and bytes that are
    no command. A command that comes in the middle of a chain acts, too, whatever it is: cards have been seen that put
    the pieces before it in front of its data. Only the caller knows that.

    Args:
        apdu: the command.
        application: what is selected; UNKNOWN when it is not certain.
        fetching: the command before it on the same handle only read, and was answered ``61xx``.
        environment: the MANAGE SECURITY ENVIRONMENT commands that are in force: this one would repeat one of them.
    """
    try:
        command = CommandApdu.parse(apdu)
    except ApduError:
        return False
    if command.is_get_response:
        return fetching and command.cla == 0
    if command.ins == _MANAGE_SECURITY_ENVIRONMENT:
        return command.cla == 0 and apdu in environment
    which = (command.cla, command.ins)
    check = _READING.get(which) or _APPLICATION_READING.get(application, {}).get(which)
    return check is not None and check(command)
