"""What a command to the reader is: a question about it, a PIN that is typed at it, or anything else.

PC/SC part 10, 2.2: GET_FEATURE_REQUEST asks which features a reader has and by which control codes; features 0A, 11 and
12 only describe it. VERIFY_PIN_DIRECT and MODIFY_PIN_DIRECT carry a command for the card, into which the reader puts
the PIN: they are worth what that command does.
"""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.constants import GET_FEATURE_REQUEST

#: Features whose control code only reads a description of the reader (PC/SC part 10, 2.3).
_DESCRIBING: Final = frozenset({0x0A, 0x11, 0x12})
_VERIFY_PIN_DIRECT, _MODIFY_PIN_DIRECT = 0x06, 0x07
#: A feature in the answer to ``GET_FEATURE_REQUEST``: tag, length 4, control code in big-endian order.
_FEATURE_SIZE: Final = 6
#: Where the command begins in PIN_VERIFY and PIN_MODIFY structures, behind its length in four bytes, little-endian
#: (PC/SC part 10, 2.5.2 and 2.5.3).
_COMMAND_AT: Final = {_VERIFY_PIN_DIRECT: 19, _MODIFY_PIN_DIRECT: 24}


class Features:
    """The features that a reader has said it has."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}

    def learn(self, code: int, answer: bytes) -> None:
        """The reader has answered a control code."""
        if code != GET_FEATURE_REQUEST:
            return
        for at in range(0, len(answer) - _FEATURE_SIZE + 1, _FEATURE_SIZE):
            if answer[at + 1] == _FEATURE_SIZE - 2:
                self._codes[int.from_bytes(answer[at + 2 : at + _FEATURE_SIZE], "big")] = answer[at]

    def describes(self, code: int) -> bool:
        """Whether the code only reads a description of the reader."""
        return code == GET_FEATURE_REQUEST or self._codes.get(code) in _DESCRIBING

    def command(self, code: int, data: bytes) -> bytes | None:
        """The command for the card that a control code carries; None when it carries none, or not a whole one."""
        at = _COMMAND_AT.get(self._codes.get(code, 0))
        if at is None or len(data) < at:
            return None
        length = int.from_bytes(data[at - 4 : at], "little")
        command = data[at:]
        return command if len(command) == length else None
