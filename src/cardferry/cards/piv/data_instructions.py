"""SELECT, GET DATA, PUT DATA (NIST SP 800-73-5 part 2, 3.1.1, 3.1.2 and 3.3.1)."""

from __future__ import annotations

from typing import Final

from cardferry.cards.piv.application import Application, Instruction, require_parameters
from cardferry.cards.piv.objects import AID, PIN_PROTECTED, RID_SIZE, SELF_CONTAINED, TAG_DATA
from cardferry.cards.status_error import StatusError
from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import CommandApdu, StatusWord

_TAG_TAG_LIST: Final = 0x5C
_P1_BY_NAME: Final = 0x04
_P1P2_CURRENT: Final = (0x3F, 0xFF)

#: The application property template (SP 800-73-5 part 2, table 3).
APPLICATION_PROPERTIES: Final = tlv.encode(
    0x61,
    tlv.encode(0x4F, AID[RID_SIZE:]),
    tlv.encode(0x79, tlv.encode(0x4F, AID[:RID_SIZE])),
    tlv.encode(0x50, b"cardferry PIV"),
)


def select(application: Application, command: CommandApdu) -> bytes:
    """Select PIV by its identifier, whole or cut short from the right.

    PIV is the only application and always selected. Selecting it again, or in vain another one, leaves the
    security status as it is (SP 800-73-5 part 2, 3.1.1): programs that probe cards do not log others out.
    """
    del application
    require_parameters(command, _P1_BY_NAME, 0x00)
    if len(command.data) < RID_SIZE or not AID.startswith(command.data):
        raise StatusError(StatusWord.FILE_NOT_FOUND, "no such application")
    return APPLICATION_PROPERTIES


def get_data(application: Application, command: CommandApdu) -> bytes:
    """Read a data object."""
    require_parameters(command, *_P1P2_CURRENT)
    tag = _tag(tlv.parse_one(command.data, _TAG_TAG_LIST))
    if tag in PIN_PROTECTED:
        application.require_pin()
    content = application.contents.objects.get(tag)
    if content is None:
        raise StatusError(StatusWord.FILE_NOT_FOUND, f"no object {tag:X}")
    return tlv.encode(tag if tag in SELF_CONTAINED else TAG_DATA, content)


def put_data(application: Application, command: CommandApdu) -> bytes:
    """Write a data object; empty content removes it. Needs the management key."""
    require_parameters(command, *_P1P2_CURRENT)
    application.require_administrator()
    objects = tlv.parse(command.data)
    match objects:
        case [tlv.Tlv(tag, content)] if tag in SELF_CONTAINED:
            application.contents.objects.put(tag, content)
        case [tlv.Tlv(0x5C, name), tlv.Tlv(0x53, content)]:
            application.contents.objects.put(_tag(name), content)
        case _:
            raise StatusError(StatusWord.WRONG_DATA, "neither a template nor a tag and its data")
    application.changed()
    return b""


def _tag(name: bytes) -> int:
    """The single tag that a tag list holds."""
    tag = int.from_bytes(name, "big")
    if tlv.encode_tag(tag) != name:
        raise StatusError(StatusWord.WRONG_DATA, "not one tag")
    return tag


INSTRUCTIONS: Final[dict[int, Instruction]] = {0xA4: select, 0xCB: get_data, 0xDB: put_data}
