"""Which application of a card the next command goes to.

One command byte means different things to different applications: ``FB`` erases a YubiKey's PIV application, and
attests a key in its OpenPGP application. So whoever says what a command does follows which application is selected:
by its name (SELECT, ISO 7816-4:2020, 11.2.2), by a file of it, or because it has said its own name in an answer.

It cannot always be known. A *set* of applications says what is possible: ``{PIV}`` for sure, ``{PIV, PKCS15}`` one of
two, ``{UNKNOWN}`` any, also one that is not in the list.

Identifiers: NIST SP 800-73-4 part 1, 2.2 (PIV); OpenPGP card 3.4.1, 4.2.1; ISO 7816-15:2016, 7.2 (PKCS#15);
GlobalPlatform Card Specification 2.3.1, F.6; NIST IR 6887 (GSC-IS 2.1), 5 and B (CAC: the applets of one provider, and
its access control applet, all take the same commands); Yubico's `yubikit.core.smartcard.AID`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from cardferry.pcsc.apdu import CommandApdu, ResponseApdu, StatusWord


class Application(Enum):
    """What an application is, as far as its commands are known; the value is its name for people."""

    UNKNOWN = "unknown application"
    PIV = "PIV"
    OPENPGP = "OpenPGP"
    PKCS15 = "PKCS#15"
    GLOBAL_PLATFORM = "GlobalPlatform"
    CAC = "CAC"
    YUBIKEY_OTP = "YubiKey OTP"
    YUBIKEY_MANAGEMENT = "YubiKey management"


Applications = frozenset[Application]

#: Nothing is known: right after a reset, and whenever somebody else had the card.
ANY: Final[Applications] = frozenset({Application.UNKNOWN})

#: How identifiers begin.
_IDENTIFIERS: Final = (
    (Application.PIV, bytes.fromhex("A000000308 00001000")),
    (Application.OPENPGP, bytes.fromhex("D276000124 01")),
    (Application.PKCS15, bytes.fromhex("A000000063 504B43532D3135")),
    (Application.GLOBAL_PLATFORM, bytes.fromhex("A000000151 0000")),
    (Application.CAC, bytes.fromhex("A000000079")),
    (Application.CAC, bytes.fromhex("A000000116 DB00")),
    (Application.YUBIKEY_OTP, bytes.fromhex("A000000527 2001")),
    (Application.YUBIKEY_MANAGEMENT, bytes.fromhex("A000000527 471117")),
)
#: Names for people of whatever else begins so.
_FAMILIES: Final = {
    bytes.fromhex("A000000308"): "PIV",
    bytes.fromhex("A000000527"): "Yubico",
    bytes.fromhex("A000000151"): "GlobalPlatform",
    bytes.fromhex("A0000006472F0001"): "FIDO",
}
#: Bytes of the registered application provider identifier, with which every identifier begins (ISO 7816-4, 12.3.4).
_RID_SIZE: Final = 5

_SELECT: Final = 0xA4
_GET_DATA, _GET_DATA_ODD = 0xCA, 0xCB
_DISCOVERY: Final = bytes.fromhex("5C017E")
#: P1 of SELECT (ISO 7816-4, table 62): a file under the current one, by application name.
_CHILD_EF, _BY_NAME = 0x02, 0x04
#: INS and P1 of commands whose answers may tell which application is selected, see `identifier_told`.
TELLING: Final = frozenset(map(bytes, ((_SELECT, _BY_NAME), (_GET_DATA, 0x00), (_GET_DATA_ODD, 0x3F))))
#: The directory of PKCS#15 where it is not selected by name (PKCS#15 v1.1, 5.4.1).
_PKCS15_DIRECTORY: Final = bytes.fromhex("5015")
#: P2 of SELECT: which of several that begin with this name; 0 is the first.
_OCCURRENCE: Final = 0x03
#: SW1 of answers that are not errors: done, data waits (ISO and GSM), warnings.
DONE: Final = frozenset({0x90, 0x61, 0x9F, 0x62, 0x63})


def name_of_application(identifier: bytes) -> str | None:
    """The name for people of what begins with this identifier, such as ``PIV``; None when it is not known."""
    for prefix, name in _FAMILIES.items():
        if identifier.startswith(prefix):
            return name
    return next((each.value for each, prefix in _IDENTIFIERS if identifier.startswith(prefix)), None)


def applications_named(identifier: bytes) -> Applications:
    """What a SELECT with this (perhaps partial) identifier may select.

    With the provider's RID of PIV alone it is PIV, as programs select it. Any other name that is too short, or that
    has the provider of a known application and goes on differently, may be that application or an unknown one.
    """
    possible = {Application.UNKNOWN}
    for application, prefix in _IDENTIFIERS:
        if identifier.startswith(prefix):
            return frozenset({application})
        if prefix.startswith(identifier):
            if application is Application.PIV and len(identifier) >= _RID_SIZE:
                return frozenset({application})
            possible.add(application)
        elif identifier[:_RID_SIZE] == prefix[:_RID_SIZE]:
            possible.add(application)
    return frozenset(possible)


def selected_after(before: Applications, command: CommandApdu, response: ResponseApdu) -> Applications:
    """What may be selected after a command and its answer.

    Args:
        before: what may have been selected.
        command: a whole command, all pieces of its chain together, in a class of ISO 7816-4, without secure messaging.
        response: the answer, or its first piece.
    """
    if command.ins == _SELECT:
        return _after_select(before, command, response)
    if asks_for_name(command) and response.status.sw1 in DONE:
        named = applications_named(_own_name(command, response.data))
        return before if Application.UNKNOWN in named else named
    return before


def _after_select(before: Applications, command: CommandApdu, response: ResponseApdu) -> Applications:
    if command.p1 != _BY_NAME:
        return _after_file(before, command, response.status)
    named = applications_named(command.data)
    if command.p2 & _OCCURRENCE:
        named |= ANY
    if response.status.sw1 in DONE:
        if Application.UNKNOWN in named:
            named = applications_named(_object(_object(response.data, 0x6F), 0x84))
        return _settled(named)
    # "not found" leaves the selection (ISO 7816-4, 11.2.2; SP 800-73-4 part 2, 3.1.1). But a Java card selects the
    # applet first and asks it then, and what an applet answers to its own selection may be an error.
    if response.status == StatusWord.FILE_NOT_FOUND:
        named -= ANY
    return _settled(before | named)


def _after_file(before: Applications, command: CommandApdu, status: StatusWord) -> Applications:
    if status.sw1 not in DONE or command.p1 == _CHILD_EF:
        return before
    if command.data.endswith(_PKCS15_DIRECTORY):
        return frozenset({Application.PKCS15})
    # a card that has files has left the application, one that is lenient has not
    return _settled(before | {Application.PKCS15})


def _settled(applications: Applications) -> Applications:
    return ANY if Application.UNKNOWN in applications else applications


def identifier_told(command: CommandApdu, response: ResponseApdu) -> bytes:
    """The identifier that the selected application has by this answer, in full if it says so; empty if none is told."""
    if response.status.sw1 not in DONE:
        return b""
    if command.ins == _SELECT and command.p1 == _BY_NAME and not command.p2 & _OCCURRENCE:
        told = _object(_object(response.data, 0x6F), 0x84)
        return told if told.startswith(command.data) else command.data
    return _own_name(command, response.data) if asks_for_name(command) else b""


def asks_for_name(command: CommandApdu) -> bool:
    """Whether the command asks the selected application for its own identifier.

    Programs that know which application they had selected ask so, rather than selecting it again, which would drop
    its security status: PIV's discovery object (SP 800-73-4 part 1, 3.3.2), OpenPGP's identifier and application
    related data (OpenPGP card 3.4.1, 4.4.1).
    """
    if command.ins == _GET_DATA_ODD:
        return command.data == _DISCOVERY and (command.p1, command.p2) == (0x3F, 0xFF)
    return command.ins == _GET_DATA and command.p1 == 0 and command.p2 in (0x4F, 0x6E) and not command.data


def _own_name(command: CommandApdu, data: bytes) -> bytes:
    """The identifier in an answer to that; empty where there is none."""
    if command.ins == _GET_DATA_ODD:
        return _object(_object(data, 0x7E), 0x4F)
    return _object(_object(data, 0x6E), 0x4F) if command.p2 == 0x6E else data


def _object(data: bytes, tag: int) -> bytes:
    """The value of a data object with a one-byte tag at the beginning of ``data``, as far as it is there."""
    if data[:1] != bytes((tag,)) or len(data) < 2:
        return b""
    first = data[1]
    size = first - 0x80 if first > 0x80 else 0
    length = int.from_bytes(data[2 : 2 + size], "big") if size else first
    return data[2 + size : 2 + size + length]
