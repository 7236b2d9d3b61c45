"""APDUs in words, without their secrets.

What a command *does* is shown: its name, parameters and lengths, for SELECT the application, for a response its
length and status word. What it *carries* never is: PINs, keys, challenges, data to sign, contents of objects.

Names: ISO 7816-4:2020 table 5, NIST SP 800-73-4 part 2. Application identifiers: NIST SP 800-73-4 part 1 2.2, OpenPGP
card 3.4 4.2.1, GlobalPlatform Card Specification 2.3.1 F.6, ISO 7816-15 4.2.
"""

from __future__ import annotations

from cardferry.pcsc.apdu import ApduError, CommandApdu, ResponseApdu

_SELECT = 0xA4
_VERIFY = 0x20
_BY_NAME = 0x04
_INSTRUCTIONS = {
    0x04: "DEACTIVATE FILE",
    _VERIFY: "VERIFY",
    0x22: "MANAGE SECURITY ENVIRONMENT",
    0x24: "CHANGE REFERENCE DATA",
    0x2A: "PERFORM SECURITY OPERATION",
    0x2C: "RESET RETRY COUNTER",
    0x44: "ACTIVATE FILE",
    0x47: "GENERATE KEY PAIR",
    0x70: "MANAGE CHANNEL",
    0x82: "EXTERNAL AUTHENTICATE",
    0x84: "GET CHALLENGE",
    0x86: "GENERAL AUTHENTICATE",
    0x87: "GENERAL AUTHENTICATE",
    0x88: "INTERNAL AUTHENTICATE",
    _SELECT: "SELECT",
    0xB0: "READ BINARY",
    0xB1: "READ BINARY",
    0xB2: "READ RECORD",
    0xC0: "GET RESPONSE",
    0xCA: "GET DATA",
    0xCB: "GET DATA",
    0xCC: "GET NEXT DATA",
    0xD6: "UPDATE BINARY",
    0xDA: "PUT DATA",
    0xDB: "PUT DATA",
    0xDC: "UPDATE RECORD",
    0xE0: "CREATE FILE",
    0xE4: "DELETE FILE",
}
_APPLICATIONS = {
    bytes.fromhex("a000000308"): "PIV",
    bytes.fromhex("d27600012401"): "OpenPGP",
    bytes.fromhex("a000000527"): "Yubico",
    bytes.fromhex("a000000151"): "GlobalPlatform",
    bytes.fromhex("a000000063504b43532d3135"): "PKCS#15",
    bytes.fromhex("a000000079"): "CAC",
    bytes.fromhex("a0000006472f0001"): "FIDO",
}


def describe_command(apdu: bytes) -> str:
    """A command APDU in words, such as ``SELECT PIV`` or ``VERIFY 00 80, 8 bytes``."""
    try:
        command = CommandApdu.parse(apdu)
    except ApduError:
        return f"{len(apdu)} bytes that are no command APDU"
    name = _INSTRUCTIONS.get(command.ins, f"instruction {command.ins:02X}")
    if command.secure_messaging:
        name += " under secure messaging"
    if command.ins == _SELECT and command.p1 == _BY_NAME:
        return f"{name} {_application(command.data)}"
    words = f"{name} {command.p1:02X} {command.p2:02X}"
    if command.ins == _VERIFY and not command.data:
        words += ", asks for the tries left"
    if command.data:
        words += f", {_bytes(len(command.data))}"
    return f"{words}, to be continued" if command.is_chained else words


def describe_response(response: bytes) -> str:
    """A response APDU in words, such as ``256 bytes, 61 10`` or ``63 C2 (...)``."""
    try:
        parsed = ResponseApdu.parse(response)
    except ApduError:
        return f"{_bytes(len(response))} that are no response APDU"
    status = parsed.status
    words = f"{status.sw1:02X} {status.sw2:02X}"
    if not status.is_success:
        words += f" ({status.text})"
    return f"{_bytes(len(parsed.data))}, {words}" if parsed.data else words


def _application(aid: bytes) -> str:
    for prefix, name in _APPLICATIONS.items():
        if aid.startswith(prefix):
            return name
    return f"application {aid.hex()}" if aid else "the default application"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
