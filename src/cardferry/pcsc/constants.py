"""Constants of PC/SC as pcsc-lite numbers them.

Source: PC/SC Workgroup Specification part 5 and pcsc-lite's ``pcsclite.h``, ``reader.h`` and ``eventhandler.h``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

#: Bytes of a reader name in the wire protocol, with the closing NUL (``MAX_READERNAME``).
MAX_READERNAME: Final = 128
#: Bytes of the longest answer to reset (ISO 7816-3, 8.2.1).
MAX_ATR_SIZE: Final = 33
#: Bytes of the longest attribute value (``MAX_BUFFER_SIZE``).
MAX_ATTRIBUTE_SIZE: Final = 264
#: Bytes of the longest command or response, and of control data (``MAX_BUFFER_SIZE_EXTENDED``).
MAX_APDU_SIZE: Final = 65548
#: The largest handle: a 32-bit signed number on the wire, zero means none.
MAX_HANDLE: Final = 0x7FFF_FFFF
#: ``dwEventState`` of an endless wait, in ms.
INFINITE: Final = 0xFFFF_FFFF
#: The name that stands for "readers come and go" in ``SCardGetStatusChange``.
PNP_NOTIFICATION: Final = r"\\?PnP?\Notification"


class Scope(IntEnum):
    """Scope of a context (PC/SC part 5, 3.2.3). pcsc-lite treats all alike."""

    USER = 0
    TERMINAL = 1
    SYSTEM = 2
    GLOBAL = 3


class ShareMode(IntEnum):
    """How a card handle shares its reader."""

    EXCLUSIVE = 1
    SHARED = 2
    DIRECT = 3


class Protocol(IntFlag):
    """Transmission protocols, as a mask. ``RAW`` passes bytes without a protocol."""

    UNDEFINED = 0
    T0 = 1
    T1 = 2
    RAW = 4
    T15 = 8
    ANY = 3


#: Older pcsc-lite's spelling of ``Protocol.ANY`` (``SCARD_PROTOCOL_ANY_OLD``).
PROTOCOL_ANY_OLD: Final = 0x1000


class Disposition(IntEnum):
    """What happens to the card when a connection or transaction ends, or is renewed."""

    LEAVE = 0
    RESET = 1
    UNPOWER = 2
    EJECT = 3


class CardState(IntFlag):
    """State of a reader's slot, the ``readerState`` of pcsc-lite's ``READER_STATE``."""

    NONE = 0
    UNKNOWN = 0x01
    ABSENT = 0x02
    PRESENT = 0x04
    SWALLOWED = 0x08
    POWERED = 0x10
    NEGOTIABLE = 0x20
    SPECIFIC = 0x40


#: ``readerSharing`` of a reader somebody holds exclusively; positive numbers count shared handles.
SHARING_EXCLUSIVE: Final = -1

#: Control codes are this plus a number (``SCARD_CTL_CODE``).
CONTROL_CODE_BASE: Final = 0x4200_0000
#: ``CM_IOCTL_GET_FEATURE_REQUEST`` (PC/SC part 10, 2.2).
GET_FEATURE_REQUEST: Final = CONTROL_CODE_BASE + 3400


class Attribute(IntEnum):
    """Reader attributes that programs ask for (PC/SC part 3, 3.1.1)."""

    VENDOR_NAME = 0x0001_0100
    VENDOR_IFD_TYPE = 0x0001_0101
    VENDOR_IFD_VERSION = 0x0001_0102
    VENDOR_IFD_SERIAL_NO = 0x0001_0103
    CHANNEL_ID = 0x0002_0110
    MAXINPUT = 0x0007_A007
    ICC_PRESENCE = 0x0009_0300
    ICC_INTERFACE_STATUS = 0x0009_0301
    ATR_STRING = 0x0009_0303
    ICC_TYPE_PER_ATR = 0x0009_0304
    DEVICE_FRIENDLY_NAME = 0x7FFF_0003
    DEVICE_SYSTEM_NAME = 0x7FFF_0004
