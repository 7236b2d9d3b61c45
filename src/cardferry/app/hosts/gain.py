"""What cardferry at the other end would bring over the distance to a host, from the round trip that was measured."""

from __future__ import annotations

from typing import Final

#: ``pkcs11-tool --sign`` with a PIV card, as `bench.wan` counts it (docs/link-performance.md): s on the host itself;
#: what waits for the host when its pcscd is forwarded, which is each APDU; and over a link to a card that is known.
_LOCAL: Final = 0.04
_FORWARDED: Final = 45
_LINKED: Final = 4
#: From here on it is worth a word.
_LEAST: Final = 2.0


def times_faster(round_trip: float) -> float:
    """How many times faster a signature is over a link than with plain forwarding, for a round trip in s."""
    return (_LOCAL + _FORWARDED * round_trip) / (_LOCAL + _LINKED * round_trip)


def gain(round_trip: float, host: str) -> str:
    """What a link would bring, in words for people, and the command for it.

    Args:
        round_trip: s.
        host: as on the command line.
    """
    times = times_faster(round_trip)
    if times < _LEAST:
        return f"with it, programs outlive a network that breaks: cardferry setup {host}"
    return f"{times:.0f} times faster over this distance ({round_trip * 1000:.0f} ms): cardferry setup {host}"
