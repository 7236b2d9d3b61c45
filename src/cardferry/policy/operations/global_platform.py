"""What the commands to a GlobalPlatform security domain do, which loads and deletes the programs of a card.

GlobalPlatform Card Specification 2.3.1, 11 and amendments D and F (secure channels). What these commands do is in
their instruction, not in their data: so it is known under secure messaging as well.
"""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation

#: CLA of commands to GlobalPlatform, on logical channels 0 to 3: plain, and with secure messaging (11.1.4).
CLASSES: Final = range(0x80, 0x84)
CLASSES_PROTECTED: Final = range(0x84, 0x88)
CHANNEL_MASK: Final = 0x03

_READS: Final = frozenset({0xCA, 0xCB, 0xF2})
#: INITIALIZE UPDATE, END and BEGIN R-MAC, EXTERNAL and INTERNAL AUTHENTICATE, PUT KEY, STORE DATA, DELETE, INSTALL,
#: LOAD, SET STATUS.
_ADMINISTERS: Final = frozenset({0x50, 0x78, 0x7A, 0x82, 0x88, 0xD8, 0xE2, 0xE4, 0xE6, 0xE8, 0xF0})


def meaning(command: CommandApdu) -> Meaning:
    """What a command in one of the classes does to a security domain."""
    if command.ins in _ADMINISTERS:
        return Meaning(Operation.ADMINISTER)
    if command.ins in _READS and command.cla in CLASSES:
        return Meaning(Operation.READ)
    return UNCERTAIN
