"""The answer to reset: which protocols a card speaks, and what it says about itself.

Implements ISO 7816-3:2006, 8.2. The walk: TS, T0, then groups of TA, TB, TC, TD as long as a TD announces
the next group, then the historical bytes, then the check byte TCK where it is due.

Strict where the bytes would have another meaning (TS, missing interface bytes, more than 33 bytes), tolerant
where a reader can go on, because such cards exist and work in real readers: a missing or wrong TCK (see
`Atr.checksum_valid`), a TCK that should not be there, fewer historical bytes than announced, bytes after the
end, and T=15 where only a protocol may stand (TD1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Final

from cardferry.pcsc.constants import MAX_ATR_SIZE, Protocol
from cardferry.pcsc.errors import CardferryError

#: Initial character of the direct and of the inverse convention (ISO 7816-3, 8.1).
DIRECT_CONVENTION: Final = 0x3B
INVERSE_CONVENTION: Final = 0x3F

#: T=15 is no protocol: it qualifies the interface bytes that follow (ISO 7816-3, 8.2.3).
_T_GLOBAL: Final = 15

_PROTOCOLS: Final = {0: Protocol.T0, 1: Protocol.T1}


class AtrError(CardferryError):
    """These bytes are not an answer to reset."""


@dataclass(frozen=True, slots=True)
class InterfaceGroup:
    """The interface bytes TAi, TBi, TCi, TDi of one ``i``; None where the card sent none."""

    ta: int | None = None
    tb: int | None = None
    tc: int | None = None
    td: int | None = None


@dataclass(frozen=True, slots=True)
class Atr:
    """A parsed answer to reset.

    Attributes:
        raw: the bytes it was parsed from.
        groups: interface bytes, ``groups[0]`` is TA1 to TD1.
        offered: numbers T of the offered protocols in the card's order, without T=15, never repeated.
            ``(0,)`` when the card names none (ISO 7816-3, 8.2.3: T=0 by default).
        historical: the historical bytes, at most 15; fewer than announced if the ATR was cut short.
        checksum: TCK, or None when there is none.
        checksum_due: whether the standard asks for a TCK: whenever anything but T=0 is indicated.
    """

    raw: bytes
    groups: tuple[InterfaceGroup, ...]
    offered: tuple[int, ...]
    historical: bytes
    checksum: int | None
    checksum_due: bool

    @classmethod
    def parse(cls, raw: bytes) -> Atr:
        """Parse 2 to 33 bytes; raises `AtrError`."""
        if not 2 <= len(raw) <= MAX_ATR_SIZE:
            raise AtrError(f"an answer to reset has 2 to {MAX_ATR_SIZE} bytes, not {len(raw)}")
        if raw[0] not in (DIRECT_CONVENTION, INVERSE_CONVENTION):
            raise AtrError(f"an answer to reset begins with 3B or 3F, not {raw[0]:02X}")
        groups, end = _interface_bytes(raw)
        indicated = [group.td & 0x0F for group in groups if group.td is not None]
        offered = tuple(dict.fromkeys(t for t in indicated if t != _T_GLOBAL)) or (0,)
        historical_end = end + (raw[1] & 0x0F)
        return cls(
            raw=bytes(raw),
            groups=groups,
            offered=offered,
            historical=bytes(raw[end:historical_end]),
            checksum=raw[historical_end] if historical_end < len(raw) else None,
            checksum_due=any(indicated),
        )

    @property
    def protocols(self) -> Protocol:
        """The offered protocols as a mask. Protocols that PC/SC has no bit for are left out."""
        mask = Protocol.UNDEFINED
        for t in self.offered:
            mask |= _PROTOCOLS.get(t, Protocol.UNDEFINED)
        return mask

    @property
    def specific(self) -> Protocol | None:
        """The protocol the card is fixed to by TA2 (ISO 7816-3, 8.3), None in negotiable mode.

        `Protocol.UNDEFINED` when it is fixed to one that PC/SC has no bit for.
        """
        if len(self.groups) < 2 or (ta2 := self.groups[1].ta) is None:
            return None
        return _PROTOCOLS.get(ta2 & 0x0F, Protocol.UNDEFINED)

    @property
    def default(self) -> Protocol:
        """The protocol in force without negotiation: the specific one, else the first offered one."""
        if self.specific is not None:
            return self.specific
        return _PROTOCOLS.get(self.offered[0], Protocol.UNDEFINED)

    @property
    def checksum_valid(self) -> bool:
        """Whether TCK is there and right where it is due. Where it is not due, anything is fine."""
        if not self.checksum_due:
            return True
        if self.checksum is None:
            return False
        end = 2 + sum(_count(group) for group in self.groups) + (self.raw[1] & 0x0F) + 1
        return checksum(self.raw[1:end]) == 0


def checksum(data: bytes) -> int:
    """Exclusive-or of all bytes: TCK for T0 and all that follows it; 0 over the same bytes with TCK."""
    return reduce(xor, data, 0)


def _count(group: InterfaceGroup) -> int:
    return sum(byte is not None for byte in (group.ta, group.tb, group.tc, group.td))


def _interface_bytes(raw: bytes) -> tuple[tuple[InterfaceGroup, ...], int]:
    """The groups and the offset behind them. The high nibble of T0 or TD announces the next group."""
    groups: list[InterfaceGroup] = []
    offset, announced = 2, raw[1] >> 4
    while announced:
        values: list[int | None] = []
        for bit in range(4):
            if not announced & 1 << bit:
                values.append(None)
            elif offset < len(raw):
                values.append(raw[offset])
                offset += 1
            else:
                raise AtrError("the answer to reset ends inside its interface bytes")
        group = InterfaceGroup(*values)
        groups.append(group)
        announced = group.td >> 4 if group.td is not None else 0
    return tuple(groups), offset
