"""Random conversations with a card: real commands, spoilt in every way in which cards have been seen to differ.

`conversation` makes them, `weaker` finds in one of them a command that was taken for a weaker one than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.applications import Application
from cardferry.pcsc.commands import reads
from cardferry.policy.operations import Action, Operation, Tracker
from tests.policy.operations.openpgp_witness import OpenPgpWitness
from tests.policy.operations.piv_witness import PivWitness
from tests.policy.operations.witness import Card, Witness

CARDS: Final[dict[str, Callable[..., Card]]] = {"PIV": PivWitness, "OpenPGP": OpenPgpWitness}

_POINT: Final = "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296" + (
    "4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5"
)
_RSA_TEMPLATE: Final = "7C82010682008182" + "0100" + "01" * 256
#: Header, then data.
_PIV: Final = f"""
00A40400 A000000308
00A40400 A000000308000010000100
00A40400 A00000030800001000
00A40400 A00000000101
00CB3FFF 5C017E
00CB3FFF 5C035FC105
00CB3FFF 5C035FC109
00C00000
00CA004F
00200080 313233343536FFFF
00200080 313233343537FFFF
00200080
0020FF80
00200081 3132333435363738
00240080 313233343536FFFF363534333231FFFF
00240081 31323334353637383837363534333231
002C0080 3132333435363738313233343536FFFF
0087119A 7C2482008120{"11" * 32}
0087119C 7C2482008120{"11" * 32}
0087119E 7C2482008120{"11" * 32}
0087119D 7C2482008120{"11" * 32}
00871182 7C2482008120{"11" * 32}
0087079D {_RSA_TEMPLATE}
00870783 {_RSA_TEMPLATE}
0087119D 7C4582008541{_POINT}
00871182 7C4582008541{_POINT}
0087119C 7C4582008541{_POINT}
0087039B 7C028000
0087039B 7C028100
0087039B 7C1480080001020304050607{"8108" + "00" * 8}
0047009A AC03800111
0047009C AC03800114
00470082 AC03800107
00FE119C 0620{"22" * 32}
00DB3FFF 5C035FC1055303010203
00DB3FFF 5C035FC10A530401020304
00DB3FFF 7E024F00
00F7009A
00F80000
00FD0000
00F99A00
00FA0505
00FB0000
00F6829C
00FFFFFF 039B18010203040506070801020304050607080102030405060709
"""
_OPENPGP: Final = f"""
00A40400 D27600012401
00A4040C D2760001240103040000000000010000
00CA006E
00CA004F
00CA00C4
00CA7F21
00200081 313233343536
00200082 313233343536
00200083 3132333435363738
00200081
00200083
00240081 313233343536363534333231
00240083 31323334353637383837363534333231
002C0081 3132333435363738363534333231
002C0281 313233343536
002A9E9A {"30" * 19}
002A8086 A6297F49268624{"33" * 36}
002A8086 00010203
00880000 {"44" * 20}
00478000 B600
00478000 B800
00478000 A400
00478100 B600
00478100 A400
00DA005B 41
00DA005E 41
00DA0101 42
00DA5F50 7A
00DA7F21 010203
00DA00C4 00
00DA00D3 3837363534333231
00DA00C1 162B06010401DA470F01
00DA00C1 010800002000
00DA00C7 {"55" * 20}
00DA00CE 00000001
00DA00CA {"66" * 20}
00DB3FFF 4D2AB6007F480292205F4820{"77" * 32}
00DB3FFF 4D2AB8007F480292205F4820{"77" * 32}
00DB3FFF 4D2AA4007F480292205F4820{"77" * 32}
00E60000
00440000
00840000
00F20303
00F10000
00A50004 60045C027F21
002241A4 830102
"""
_TERMINATE: Final = """
00A40400 D27600012401
00E60000
"""


def _commands(text: str) -> list[CommandApdu]:
    found = []
    for line in text.split("\n"):
        if line:
            (cla, ins, p1, p2), data = (bytes.fromhex(each) for each in line.partition(" ")[::2])
            found.append(CommandApdu(cla, ins, p1, p2, data, 0 if data or ins == 0x20 else 256))
    return found


_SEEDS: Final = {"PIV": _commands(_PIV), "OpenPGP": _commands(_OPENPGP) * 2 + _commands(_PIV)}
#: How conversations begin: with a SELECT that works, and some on a card that has been terminated.
_OPENINGS: Final = {
    "PIV": [_SEEDS["PIV"][:1], _SEEDS["PIV"][1:2]],
    "OpenPGP": [_SEEDS["OpenPGP"][:1]] * 4 + [_SEEDS["OpenPGP"][1:2], _SEEDS["PIV"][:1], _commands(_TERMINATE)],
}

_CLASSES: Final = (0x00, 0x10, 0x0C, 0x1C, 0x80, 0x84, 0x90, 0x01, 0x11, 0x04, 0x40, 0x50, 0x20, 0x30, 0xC0, 0xFF)
_BYTES: Final = (0x00, 0x01, 0x02, 0x3F, 0x41, 0x80, 0x81, 0x82, 0x83, 0x86, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0xB6, 0xFF)
_TAGS: Final = (0x00, 0x4D, 0x53, 0x5C, 0x7C, 0x7E, 0x80, 0x81, 0x82, 0x84, 0x85, 0xA4, 0xAC, 0xB6, 0xB8, 0xFF)


def _byte(random: Random, likely: Sequence[int]) -> int:
    return random.choice(likely) if random.random() < 0.7 else random.randrange(256)


def _header(random: Random, seeds: Sequence[CommandApdu], command: CommandApdu) -> CommandApdu:
    """The command with another byte in its header."""
    header = [command.cla, command.ins, command.p1, command.p2]
    which = random.randrange(len(header))
    likely = (_CLASSES, [each.ins for each in seeds], _BYTES, _BYTES)[which]
    header[which] = _byte(random, likely)
    cla, ins, p1, p2 = header
    return CommandApdu(cla, ins, p1, p2, command.data, command.ne, command.extended)


def _data(random: Random, command: CommandApdu) -> CommandApdu:
    """The command with a byte of its data changed, put in or left out, with its end missing, or with more data."""
    data = bytearray(command.data)
    at = random.randint(0, min(len(data), 12))
    match random.choice(("change", "change", "put in", "leave out", "cut", "add")):
        case "change":
            data[at : at + 1] = bytes((_byte(random, _TAGS),))
        case "put in":
            data[at:at] = random.randbytes(random.randint(1, 4))
        case "leave out":
            del data[at : at + 1]
        case "cut":
            del data[at:]
        case _:
            data += random.choice((random.randbytes(4), command.data))
    return replace(command, data=bytes(data))


def _chain(random: Random, seeds: Sequence[CommandApdu], command: CommandApdu) -> list[CommandApdu]:
    """The command in pieces; perhaps one has another header, is missing, or something else comes in between."""
    ends = [0, *sorted(random.randint(0, len(command.data)) for _ in range(random.randint(1, 3))), len(command.data)]
    parts = [command.data[start:end] for start, end in pairwise(ends)]
    pieces = [replace(command, cla=command.cla | 0x10, data=part, ne=0) for part in parts]
    pieces[-1] = replace(pieces[-1], cla=command.cla, ne=command.ne)
    at = random.randrange(len(pieces))
    match random.choice(("whole", "whole", "header", "missing", "between", "last")):
        case "header":
            pieces[at] = _header(random, seeds, pieces[at])
        case "missing":
            del pieces[at]
        case "between":
            pieces.insert(at, random.choice(seeds))
        case "last":
            pieces[-1] = replace(random.choice(seeds), data=pieces[-1].data)
    return pieces


def _spoilt(random: Random, seeds: Sequence[CommandApdu]) -> list[bytes]:
    command = random.choice(seeds)
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        command = _header(random, seeds, command) if random.random() < 0.5 else _data(random, command)
    match random.choice(("plain", "plain", "chain", "chain", "extended", "tail", "raw", "random")):
        case "chain":
            return [each.encode() for each in _chain(random, seeds, command)]
        case "extended":
            return [replace(command, extended=True, ne=command.ne or 256).encode()]
        case "tail":
            return [command.encode() + random.randbytes(random.randint(1, 3))]
        case "raw":
            raw = bytearray(command.encode())
            raw[random.randrange(min(len(raw), 16))] = random.randrange(256)
            return [bytes(raw)]
        case "random":
            return [random.randbytes(random.randrange(40))]
    return [command.encode()]


def conversation(card: str, random: Random) -> list[bytes]:
    """Up to some thirty commands, with a SELECT that works in front of most."""
    seeds = _SEEDS[card]
    commands = [each.encode() for each in random.choice(_OPENINGS[card])] if random.random() < 0.9 else []
    for _ in range(random.randint(1, 8)):
        commands += _spoilt(random, seeds)
    return commands


def weaker(card: str, commands: Sequence[bytes], *, blocked: bool = False) -> str | None:
    """What a command did that it was not taken for, and what it was taken for, in words; None if there is none."""
    tracker = Tracker()
    with Witness(CARDS[card](blocked=blocked)) as witness:
        for apdu in commands:
            action, in_chain = tracker.judge(apdu), tracker.chain_open
            response, deeds = witness.process(apdu)
            tracker.answered(action, response)
            for done in deeds:
                if not any(action.meaning.covers(each) for each in done):
                    return f"{apdu.hex()} did {_words(done)}, taken for {_words([action.meaning])}"
            application = next(iter(action.applications)) if len(action.applications) == 1 else Application.UNKNOWN
            acted = [done for done in deeds if all(each.operation is not Operation.READ for each in done)]
            if acted and not in_chain and reads(apdu, application):
                return f"{apdu.hex()} did {_words(acted[0])}, taken for a command that only reads"
    return None


def forgotten(card: str, commands: Sequence[bytes]) -> str | None:
    """What somebody takes a command for who judges nothing twice, if that is wrong; None if it never is.

    As the guard: what was judged holds while the epoch is the same, and answers that teach nothing are not told.
    """
    tracker, lazy = Tracker(), Tracker()
    known: dict[bytes, tuple[int, Action, bytes]] = {}
    with Witness(CARDS[card](blocked=False)) as witness:
        for apdu in [*commands, *commands]:
            right = tracker.judge(apdu)
            epoch, action, told = known.get(apdu, (-1, right, b""))
            if epoch != lazy.epoch or apdu[1:2] == b"\xc0":
                epoch, action, told = lazy.epoch, lazy.judge(apdu), b""
            if action.meaning != right.meaning:
                return f"{apdu.hex()} is {_words([right.meaning])}, taken for {_words([action.meaning])}"
            response, _ = witness.process(apdu)
            tracker.answered(right, response)
            success = response[-2:] == b"\x90\x00"
            if response != told and not (action.quiet and success):
                lazy.answered(action, response)
                told = response if success and lazy.epoch == epoch else b""
            known[apdu] = epoch, action, told
    return None


def _words(meanings: object) -> str:
    assert isinstance(meanings, frozenset | list)
    return " or ".join(f"{each.operation}:{each.object}" for each in meanings)
