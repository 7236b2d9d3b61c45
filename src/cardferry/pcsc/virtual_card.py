"""What a card made of software must offer to be put into a reader of ours.

Whoever owns the card calls it from one thread at a time. Nothing in here waits: a card is a function from
command bytes to response bytes with a memory.
"""

from __future__ import annotations

from typing import Protocol as Interface


class VirtualCard(Interface):
    """A smart card in software."""

    @property
    def atr(self) -> bytes:
        """The answer to reset, 2 to 33 bytes, the same at every moment."""
        ...

    def power_on(self) -> bytes:
        """Power the card and return its ATR. On a powered card this is a cold reset."""
        ...

    def reset(self) -> bytes:
        """Warm reset: verified PINs and selected applications are forgotten. Returns the ATR."""
        ...

    def power_off(self) -> None:
        """Take the power away; likewise forgets the session."""
        ...

    def process(self, apdu: bytes) -> bytes:
        """Answer a command APDU with a response APDU of at least two bytes (the status word).

        Never raises, whatever the bytes are: what is not a command gets ``6700``.
        """
        ...

    def slow(self, apdu: bytes) -> bool:
        """Whether `process` may take longer than about 5 ms for this command, in the state the card is in.

        The caller then runs `process` in a thread (and nothing else on this card meanwhile). Never raises.
        """
        ...
