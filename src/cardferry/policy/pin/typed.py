"""What becomes of the PINs that are typed at the host's pinpad: the command for the card, or the answer of a pinpad."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cardferry.policy.pin.entry import CANCELLED, NOT_THE_SAME, TIMED_OUT, WRONG_SIZE, PinEntry
from cardferry.policy.pin.person import Said, wipe


async def typed_command(ask: Callable[[str, float], Awaitable[Said]], entry: PinEntry) -> tuple[bytes, str]:
    """The command with the PINs in it; or the answer to the program, and in words why there is no command.

    Args:
        ask: asks for a PIN: which one, and for how many s.
        entry: what the program wants.
    """
    typed: list[bytearray] = []
    try:
        for prompt in entry.prompts:
            said = await ask(prompt, entry.patience)
            if said.pin is None and said.cancelled:
                return CANCELLED, "the person at the host has cancelled it, or its PIN cannot be read"
            if said.pin is None:
                return TIMED_OUT, "nobody at the host has given a PIN"
            typed.append(said.pin)
            if not entry.fits(said.pin):
                return WRONG_SIZE, "the PIN has another size than the program wants"
        if entry.twice and typed[-2] != typed[-1]:
            return NOT_THE_SAME, "the new PIN was not the same both times"
        return entry.command(typed[0], typed[-1]), ""
    except ValueError:
        return WRONG_SIZE, "there is no room for the PIN"
    finally:
        for pin in typed:
            wipe(pin)
