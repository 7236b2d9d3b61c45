"""Follows one card, so that it is known what its next command does.

The commands must be those that the card gets, in the order in which it gets them: the selected application, a chain
that has begun and a key that was set belong to the card, whoever sent the commands. So either all handles of a card
share a tracker, or each has its own and is told when another one had the card (`interrupted`). For each command:
`judge` it, and if it is sent, tell the answer with `answered`. A command that is not sent changes nothing.

What is followed: SELECT; logical channels (ISO 7816-4:2020, 5.4.1 and 11.2.3); MANAGE SECURITY ENVIRONMENT; command
chaining (5.3.3); and GET RESPONSE, which is worth as much as the command whose answer it fetches.

Chaining is where cards differ most. One that gets another command in the middle of a chain may forget what has
come, or put it in front of that command's data, or refuse. So a chain that is not continued as it should be makes
the next commands the strongest of all that they may be, until one of them has ended it for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from cardferry.pcsc.apdu import ApduError, CommandApdu, ResponseApdu
from cardferry.pcsc.applications import ANY, DONE, Applications, asks_for_name, selected_after
from cardferry.policy.operations.global_platform import CHANNEL_MASK
from cardferry.policy.operations.iso import UNCLEAR, Environment, environment_after
from cardferry.policy.operations.meaning import meaning, proprietary_meaning
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation, strongest

_CHAINED: Final = 0x10
_SET_ENVIRONMENT, _MANAGE_CHANNEL, _SELECT = 0x22, 0x70, 0xA4
_SELECTING: Final = frozenset({_SET_ENVIRONMENT, _MANAGE_CHANNEL, _SELECT})
_GET_RESPONSE: Final = 0xC0
#: P1 of MANAGE CHANNEL.
_OPEN: Final = 0x00
_SUCCESS: Final = b"\x90\x00"
_MORE_DATA: Final = frozenset({0x61, 0x9F})
#: SELECT, READ BINARY and RECORD, GET RESPONSE and DATA: programs repeat them, and they carry no secrets.
WITHOUT_SECRETS: Final = frozenset(bytes((ins,)) for ins in (0xA4, 0xB0, 0xB2, 0xC0, 0xCA, 0xCB))
_MOST_REMEMBERED: Final = 512
#: SW1 of a card that has not looked farther than the class byte.
_CLASS_REFUSED: Final = frozenset({0x68, 0x6E})


class _Class(NamedTuple):
    """A class byte: whether it is ISO's without secure messaging, and the logical channel."""

    plain: bool
    channel: int


def _class(cla: int) -> _Class:
    header = CommandApdu(cla, 0, 0, 0)
    channel = header.channel if header.interindustry else cla & CHANNEL_MASK
    return _Class(header.interindustry and not header.secure_messaging, channel)


#: Looked up, because it is needed for each command.
_CLASSES: Final = tuple(_class(cla) for cla in range(0x100))


#: Taking a command apart is the larger part of judging it.
_parsed: Final = lru_cache(_MOST_REMEMBERED)(CommandApdu.parse)


@dataclass(slots=True)
class Action:
    """A command that has been judged.

    Attributes:
        meaning: what it does, and to which key or object.
        applications: where it may go.
        command: the whole command as far as it has come, with the data of its chain; None for bytes that are none.
        complete: whether it is a whole command or the last piece of one; a card does nothing before.
        quiet: whether success, told by ``9000``, changes nothing of what later commands do.
    """

    meaning: Meaning
    applications: Applications
    command: CommandApdu | None = field(repr=False)
    complete: bool
    _raw: bytes = field(repr=False)
    _piece: CommandApdu | None = field(repr=False)
    quiet: bool = False

    @property
    def operation(self) -> Operation:
        """What is done."""
        return self.meaning.operation

    @property
    def object(self) -> str | None:
        """The key or object; see `Meaning`."""
        return self.meaning.object


@dataclass(slots=True)
class _Chain:
    """A chain that may be under way in the card.

    Attributes:
        first: its first piece, whose header the others share; None when it is not known what has come.
        data: of all pieces.
        certain: whether the card has these pieces for certain.
    """

    first: CommandApdu | None
    data: bytes = b""
    certain: bool = True

    def continued_by(self, piece: CommandApdu) -> bool:
        """Whether this is the next piece."""
        return self.first is not None and _header(self.first) == _header(piece)

    def same_channel(self, piece: CommandApdu) -> bool:
        """Whether it may be under way on the logical channel of this command."""
        return self.first is None or self.first.channel == piece.channel


@dataclass(slots=True)
class _Channel:
    """A logical channel: what may be selected there, the keys that are set, and whether it is known to be open."""

    applications: Applications
    environment: Environment
    opened: bool


class Tracker:
    """Says what each command to a card does; see the module.

    Attributes:
        epoch: another number whenever a command may do something else than before. While it is the same, what was
            judged need not be judged again, but GET RESPONSE.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.reset()

    def reset(self) -> None:
        """The card was reset, or another one was put in."""
        self._channels: dict[int, _Channel] = {}
        self._environment: Environment = {}
        self._chain: _Chain | None = None
        self._waiting: Meaning | None = None
        self.epoch += 1

    def interrupted(self) -> None:
        """Somebody else has had the card, or an answer was lost: what was known is not certain any more."""
        self._channels = {}
        self._environment = UNCLEAR
        self._waiting = None
        self.epoch += 1
        if self._chain is not None:
            self._chain.certain = False

    @property
    def chain_open(self) -> bool:
        """Whether the card may be waiting for more pieces of a command.

        Nobody else may have the card then: their first command could be taken for the rest of it.
        """
        return self._chain is not None

    @property
    def response_open(self) -> bool:
        """Whether the rest of an answer may be waiting in the card, for whoever asks for it first."""
        return self._waiting is not None

    @property
    def read_open(self) -> bool:
        """Whether it is the rest of what was read; who fetches that needs the right to read it."""
        return self._waiting is not None and self._waiting.operation is Operation.READ

    @property
    def applications(self) -> Applications:
        """What may be selected on the basic logical channel."""
        return self._channel(0).applications

    def judge(self, apdu: bytes) -> Action:
        """What this command does, if it is sent next. Changes nothing."""
        try:
            piece = _parsed(apdu) if apdu[1:2] in WITHOUT_SECRETS else CommandApdu.parse(apdu)
        except ApduError:
            return Action(UNCERTAIN, ANY, None, True, apdu, None)
        plain, number = _CLASSES[piece.cla]
        channel = self._channel(number)
        if not plain:
            what = proprietary_meaning(channel.applications, piece)
            return Action(what, channel.applications, piece, True, apdu, piece)
        partial = piece.cla & _CHAINED != 0
        quiet = False
        if piece.ins == _GET_RESPONSE and piece.is_get_response:
            what, whole = self._waiting or UNCERTAIN, piece
        elif self._chain is None:
            what, whole = meaning(channel.applications, piece, partial, channel.environment), piece
            quiet = not (partial or piece.ins in _SELECTING or what.operation is Operation.OTHER)
            quiet = quiet and not asks_for_name(piece)
        else:
            what, whole = self._in_chain(self._chain, piece, channel)
        return Action(what, channel.applications, whole, not partial, apdu, piece, quiet)

    def answered(self, action: Action, response: bytes) -> None:
        """The command was sent, and the card has answered this."""
        if len(response) < 2:
            self.lost(action)
            return
        sw1, piece = response[-2], action._piece
        fetches = piece is not None and piece.ins == _GET_RESPONSE and piece.is_get_response
        if sw1 in _MORE_DATA:
            self._waiting = action.meaning
        elif fetches and response[-2:] == _SUCCESS:
            self._waiting = None
        if piece is not None and action.command is not None and _CLASSES[piece.cla].plain and not fetches:
            self._plain_answered(action, piece, action.command, response)
        elif self._chain is not None:
            self.epoch += 1
            self._chain.certain = False
        if action.operation is Operation.OTHER:
            self._doubt(action._raw, sw1)

    def lost(self, action: Action) -> None:
        """The command was sent, and it is not known what the card has made of it."""
        self.interrupted()
        if _may_be_chained(action._raw):
            self._chain = _Chain(None)

    def _plain_answered(self, action: Action, piece: CommandApdu, command: CommandApdu, response: bytes) -> None:
        chain = self._chain
        in_order = chain is None or (chain.certain and chain.continued_by(piece))
        if chain is not None or piece.cla & _CHAINED:
            self.epoch += 1
            self._follow_chain(piece, response[-2])
        if not action.complete or action.operation is Operation.OTHER:
            return
        if command.ins in _SELECTING or asks_for_name(command):
            self._follow(command, ResponseApdu.parse(response), in_order)

    def _in_chain(self, chain: _Chain, piece: CommandApdu, channel: _Channel) -> tuple[Meaning, CommandApdu]:
        """What a command does that comes when a chain may be under way, and what it is put together with it."""
        partial = piece.cla & _CHAINED != 0
        if chain.first is None or (partial and not chain.continued_by(piece)):
            return UNCERTAIN, piece
        try:
            if chain.continued_by(piece):
                whole = replace(piece, data=chain.data + piece.data)
                possible = [whole] if chain.certain else [whole, piece]
            else:
                whole = piece
                possible = [piece, *_put_together(chain.first, chain.data, piece)]
        except ApduError:  # longer than any command
            return UNCERTAIN, piece
        meanings = (meaning(channel.applications, each, partial, channel.environment) for each in possible)
        return strongest(meanings), whole

    def _follow_chain(self, piece: CommandApdu, sw1: int) -> None:
        chain = self._chain
        if not piece.cla & _CHAINED:
            if chain is not None and (sw1 in _CLASS_REFUSED or not chain.same_channel(piece)):
                chain.certain = False
            else:
                self._chain = None
        elif sw1 not in DONE:
            if chain is not None:
                chain.certain = False
        elif chain is None:
            self._chain = _Chain(piece, piece.data)
        elif chain.certain and chain.continued_by(piece):
            chain.data += piece.data
        else:
            self._chain = _Chain(None)

    def _follow(self, command: CommandApdu, response: ResponseApdu, in_order: bool) -> None:
        """A whole command has been answered, and it is certain what it is unless it broke into a chain."""
        done = response.status.sw1 in DONE
        channel = self._channel(_CLASSES[command.cla].channel)
        # a card that takes a SELECT on a channel that nobody has opened may know of no channels, and select on them all
        if command.ins in _SELECTING and not (in_order and (channel.opened or not done)):
            self._forget()
            return
        before = channel.applications, channel.environment
        channel.applications = selected_after(channel.applications, command, response)
        if done:
            self._follow_done(command, response, channel)
        if (channel.applications, channel.environment) != before:
            self.epoch += 1

    def _follow_done(self, command: CommandApdu, response: ResponseApdu, channel: _Channel) -> None:
        if command.ins == _SELECT:
            channel.environment = dict.fromkeys(channel.environment)
        elif command.ins == _SET_ENVIRONMENT:
            channel.environment = environment_after(channel.environment, command)
        elif command.ins == _MANAGE_CHANNEL:
            number = _opened_or_closed(command, response)
            self._channels[number] = _Channel(ANY, self._environment, opened=command.p1 == _OPEN or number == 0)
            self.epoch += 1

    def _doubt(self, raw: bytes, sw1: int) -> None:
        """A command has been answered of which nobody knows what it does: perhaps it selects, perhaps it is a piece."""
        if sw1 in DONE:
            self._forget()
            if _may_be_chained(raw):
                self._chain = _Chain(None)
        elif len(raw) > 1 and raw[1] in _SELECTING and sw1 not in _CLASS_REFUSED:
            self._forget()

    def _forget(self) -> None:
        self.epoch += 1
        self._channels = {}
        self._environment = UNCLEAR

    def _channel(self, number: int) -> _Channel:
        channel = self._channels.get(number)
        if channel is None:
            channel = self._channels[number] = _Channel(ANY, self._environment, opened=number == 0)
        return channel


def _put_together(first: CommandApdu, data: bytes, last: CommandApdu) -> Iterator[CommandApdu]:
    """What a card may make of a chain and a last command that does not belong to it."""
    for header in (last, first):
        yield CommandApdu(last.cla, header.ins, header.p1, header.p2, data + last.data, last.ne, last.extended)


def _opened_or_closed(command: CommandApdu, response: ResponseApdu) -> int:
    """The number of the channel in a MANAGE CHANNEL: P2, or what the card has chosen, or the command's own."""
    if command.p2:
        return command.p2
    return response.data[0] if response.data else command.channel


def _may_be_chained(raw: bytes) -> bool:
    return bool(raw) and raw[0] & _CHAINED != 0


def _header(command: CommandApdu) -> tuple[int, int, int, int]:
    return command.cla & ~_CHAINED, command.ins, command.p1, command.p2
