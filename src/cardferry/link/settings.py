"""What an administrator can choose about a link."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host allows; a guest is told, and keeps to it by itself.

    Attributes:
        guests: sessions at the same time. One more is refused, and the guest says so.
        contexts: contexts of one guest. The next one's connect gets ``E_NO_MEMORY``.
        handles: card handles of one guest. The next connect gets ``E_NO_MEMORY``.
        calls: calls of one guest that are not carried out yet. The next one gets ``E_NO_MEMORY``.
        call_bytes: bytes of their commands, likewise.
        memory: bytes that are kept for all guests together; when it is more, the session of the one that has most of it
            ends.
    """

    guests: int = 256
    contexts: int = 4096
    handles: int = 8192
    calls: int = 8192
    call_bytes: int = 64 << 20
    memory: int = 256 << 20
