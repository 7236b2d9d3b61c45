"""APDUs in words, without their secrets.

What a command *does* is shown: its name, parameters and lengths, for SELECT the application, for a response its
length and status word. What it *carries* never is: PINs, keys, challenges, data to sign, contents of objects.
"""

from __future__ import annotations

from cardferry.pcsc.apdu import ApduError, CommandApdu, ResponseApdu
from cardferry.pcsc.applications import name_of_application
from cardferry.pcsc.commands import instruction_name

_SELECT = 0xA4
_VERIFY = 0x20
_BY_NAME = 0x04


def describe_command(apdu: bytes) -> str:
    """A command APDU in words, such as ``SELECT PIV`` or ``VERIFY 00 80, 8 bytes``."""
    try:
        command = CommandApdu.parse(apdu)
    except ApduError:
        return f"{len(apdu)} bytes that are no command APDU"
    name = instruction_name(command.ins)
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
    if not aid:
        return "the default application"
    return name_of_application(aid) or f"application {aid.hex()}"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
