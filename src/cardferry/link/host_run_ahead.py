"""Running ahead: which command the host may send to the card before the program asks for it. Pure.

Two commands can be foreseen (ISO 7816-4):

- After ``61xx`` comes ``GET RESPONSE`` on the same logical channel, until the response is whole. Where the card takes
  longer than the way to the guest, only as long as that was right more often than wrong.
- After a ``READ BINARY`` that was answered in full comes, inside a transaction, the next piece of the file, up to
  its end if a ``SELECT`` has told where that is. Only while the way to the guest takes longer than the card does.

Neither with secure messaging, in a command chain, or in a class that ISO 7816-4 gives no meaning. The guest uses a
response only if the program asks for it next, with exactly these bytes. Everything else makes it drop what has come.

``READ BINARY`` can be repeated, ``GET RESPONSE`` cannot: the card hands its data out once. When a program asks with
another length than foreseen, the data is here and not in the card any more. So `RunAhead` then stands in for the
card and answers from what it holds, as the card would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.apdu import MAX_SHORT_LE, ApduError, CommandApdu
from cardferry.pcsc.tlv import parse_leading

_SELECT: Final = 0xA4
_READ_BINARY: Final = 0xB0
_GET_RESPONSE: Final = 0xC0
_MORE_DATA: Final = 0x61
_SUCCESS: Final = b"\x90\x00"
_CHAINED: Final = 0x10
_MAX_OFFSET: Final = 0x7FFF
#: File control information templates (FCI and FCP), and the objects in them that give a file's size in bytes
#: (ISO 7816-4, 7.4): without and with structural information.
_TEMPLATES: Final = (0x6F, 0x62)
_SIZE_TAGS: Final = (0x80, 0x81)


@dataclass(frozen=True, slots=True)
class AheadLimits:
    """How far to run.

    Attributes:
        responses: responses that the guest has not used yet, at most.
        data: bytes of them.
    """

    responses: int = 64
    data: int = 64 * 1024


class RunAhead:
    """What the host foresees for one card handle.

    For each command of the program: `arrives`, then (unless it stood in) the card, then `answered`. For each
    foreseen command: the card, then `ran`.

    Args:
        limits: see `AheadLimits`.

    Attributes:
        hits: responses that were used.
        waste: responses that were not.
    """

    __slots__ = (
        "_bytes",
        "_file_size",
        "_held",
        "_held_channel",
        "_held_status",
        "_in_transaction",
        "_le_zero",
        "_limits",
        "_next",
        "_responses",
        "_select",
        "_shown",
        "_used",
        "_worthwhile",
        "hits",
        "waste",
    )

    def __init__(self, limits: AheadLimits | None = None) -> None:
        self.hits = self.waste = 0
        self._limits = limits or AheadLimits()
        #: Responses since the program's last command, and how many of them the program has used.
        self._responses: list[tuple[CommandApdu, bytes]] = []
        self._used = 0
        self._bytes = 0
        self._next: CommandApdu | None = None
        self._in_transaction = self._worthwhile = False
        #: What the program has seen last.
        self._shown = b""
        #: Whether the program asks for "all there is" (Le 00) after any ``61xx``.
        self._le_zero = False
        #: Data that the card has handed out and the program has not got, and the status that followed it.
        self._held = b""
        self._held_status = b""
        self._held_channel = 0
        #: The response to a ``SELECT`` as far as it has come, None when something else is going on.
        self._select: bytes | None = None
        self._file_size: int | None = None

    # the program's commands

    def used(self, count: int) -> None:
        """The program has used so many responses since its last command here, in all."""
        count = min(count, len(self._responses))
        if count > self._used:
            self.hits += count - self._used
            self._used = count
            self._shown = self._responses[count - 1][1]

    def arrives(self, raw: bytes) -> bytes | None:
        """A command of the program comes; return the response if the card must not be asked."""
        self.stop()
        command = _parse(raw) if raw[1:2] == bytes((_GET_RESPONSE,)) else None
        if command is None or not command.is_get_response:
            self._held = b""
            return None
        self._learn(raw, command)
        if command.channel != self._held_channel:
            self._held = b""
        return self._stand_in(command) if self._held else None

    def stands_in(self, raw: bytes) -> bool:
        """Whether `arrives` may answer this command: then see first that the handle is in order."""
        waiting = bool(self._held) or len(self._responses) > self._used
        return waiting and raw[1:2] == bytes((_GET_RESPONSE,))

    def stop(self) -> None:
        """Something else is done with the handle: drop what was not used, but not what only we have."""
        if not self._responses:
            self._next = None
            return
        unused = self._responses[self._used :]
        self.waste += len(unused)
        self._responses = []
        self._used = self._bytes = 0
        self._next = None
        for foreseen, response in unused:
            if foreseen.is_get_response and len(response) > len(_SUCCESS):
                self._held += response[:-2]
                self._held_status = response[-2:]
                self._held_channel = foreseen.channel

    def _learn(self, raw: bytes, command: CommandApdu) -> None:
        """How does this program ask for more?"""
        if len(self._shown) >= 2 and self._shown[-2] == _MORE_DATA and self._shown[-1] and not command.extended:
            self._le_zero = raw[-1] == 0

    def _stand_in(self, command: CommandApdu) -> bytes:
        data, self._held = self._held[: command.ne], self._held[command.ne :]
        if not self._held:
            return data + self._held_status
        left = len(self._held)
        return data + bytes((_MORE_DATA, left if left < MAX_SHORT_LE else 0))

    def answered(self, raw: bytes, response: bytes, *, transaction: bool, worthwhile: bool) -> bytes | None:
        """The program's command has its response; return the next command if it can be foreseen.

        Args:
            raw: the command.
            response: the response, by the card or from `arrives`.
            transaction: whether nobody else can come in between.
            worthwhile: whether the way to the guest takes longer than the card did.
        """
        self._shown = response
        self._in_transaction = transaction
        self._worthwhile = worthwhile
        if len(response) < 2 or len(raw) < 4:
            return None
        instruction = raw[1]
        more = response[-2] == _MORE_DATA
        if instruction == _SELECT:
            self._select = b"" if more or len(response) > len(_SUCCESS) else None
            self._file_size = None
        elif instruction != _GET_RESPONSE:
            self._select = None
        if not (more or instruction == _READ_BINARY or self._select is not None):
            return None
        command = _parse(raw)
        if command is None:
            return None
        return self._foresee(command, response, reading=transaction and worthwhile)

    # the foreseen ones

    def ran(self, response: bytes) -> bytes | None:
        """The foreseen command has its response; return the one after it if that can be foreseen, too."""
        command, self._next = self._next, None
        if command is None:
            return None
        self._responses.append((command, response))
        self._bytes += len(response)
        following = self._foresee(command, response, reading=self._in_transaction)
        unused = len(self._responses) - self._used
        if unused >= self._limits.responses or self._bytes >= self._limits.data:
            self._next = None
            return None
        return following

    def gave_up(self) -> None:
        """The foreseen command was not carried out, or has failed."""
        self._next = None

    def forget(self) -> None:
        """The card was reset, or is another one: nothing that was known holds any more."""
        self.stop()
        self._held = self._held_status = self._shown = b""
        self._select = self._file_size = None

    def _foresee(self, command: CommandApdu, response: bytes, *, reading: bool) -> bytes | None:
        if len(response) < 2:
            return None
        if self._select is not None:
            self._select += response[:-2]
        if response[-2] == _MORE_DATA:
            following = None if self._held else self._more(command, response[-1])
        else:
            if self._select is not None:
                self._file_size, self._select = _file_size(self._select), None
            following = self._next_piece(command, response) if reading else None
        self._next = following
        return None if following is None else following.encode()

    def _more(self, command: CommandApdu, remaining: int) -> CommandApdu | None:
        if not self._worthwhile and self.waste > self.hits:
            return None
        if not command.interindustry or command.secure_messaging or command.is_chained:
            return None
        ne = MAX_SHORT_LE if self._le_zero or not remaining else remaining
        return CommandApdu(command.cla & ~_CHAINED, _GET_RESPONSE, 0, 0, ne=ne)

    def _next_piece(self, command: CommandApdu, response: bytes) -> CommandApdu | None:
        offset = command.binary_offset
        if offset is None or response[-2:] != _SUCCESS or len(response) - 2 != command.ne:
            return None
        offset += command.ne
        ne = command.ne
        if self._file_size is not None:
            ne = min(ne, self._file_size - offset)
        if ne <= 0 or offset > _MAX_OFFSET:
            return None
        return CommandApdu(command.cla, _READ_BINARY, offset >> 8, offset & 0xFF, ne=ne, extended=command.extended)


def _parse(raw: bytes) -> CommandApdu | None:
    try:
        return CommandApdu.parse(raw)
    except ApduError:
        return None


def _file_size(template: bytes) -> int | None:
    """The size of the file that a ``SELECT`` has described, as far as it did."""
    for template_object in parse_leading(template):
        if template_object.tag in _TEMPLATES:
            values = {each.tag: each.value for each in parse_leading(template_object.value)}
            for known in _SIZE_TAGS:
                if known in values:
                    return int.from_bytes(values[known], "big")
    return None
