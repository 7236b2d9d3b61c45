"""What the two ends of a link say to each other: one message in each data frame, encoded by msgpack.

A guest numbers its contexts, its card handles and its calls, each from 1 up, and never uses a number twice in a
session. A call with number 0 is sent without waiting: nothing answers it. If such a call fails, the host remembers
that for the handle, says `Failed`, and does nothing more with the handle until the guest mends it (see ``docs/adr``).

Calls of one context on one reader are carried out in the order in which they were sent; all others do not wait for
each other, and answers come in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATR_SIZE, MAX_ATTRIBUTE_SIZE, MAX_READERNAME
from cardferry.pcsc.reader_name import decode_reader_name, encode_reader_name
from cardferry.wire.errors import WireError

#: Readers that a host may have at most.
MAX_READERS: Final = 1024
#: Places in the queue of a reader that a guest is told, and troubles of a host.
MAX_WAITING: Final = 32
MAX_TROUBLES: Final = 32
#: Characters of what it is told of each program.
MOST_WORDS: Final = 120

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Word = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Code = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
#: A reader's name as it travels, see `packed_name`.
Name = Annotated[str, msgspec.Meta(max_length=MAX_READERNAME - 1)]
#: Bytes of a certificate that is made for one connection; of ours they are about 300.
MOST_CERTIFICATE: Final = 2048
#: Characters of the longest text.
MOST_TEXT: Final = 512
Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
Apdu = Annotated[bytes, msgspec.Meta(max_length=MAX_APDU_SIZE)]
AttributeValue = Annotated[bytes, msgspec.Meta(max_length=MAX_ATTRIBUTE_SIZE)]
Disposition = Annotated[int, msgspec.Meta(ge=0, le=3)]
Share = Annotated[int, msgspec.Meta(ge=1, le=3)]
Protocols = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


#: msgpack's strings are UTF-8, and a few names are not. A character of the private use area of Unicode with this number
#: and a byte added stands for such a byte, from 0x80 to 0xFF.
_BYTE: Final = 0xF700


def packed_name(name: str) -> str:
    """A reader's name as it travels. Characters that look as if they stood for a byte travel as their own bytes."""
    if name.isascii():
        return name
    return "".join(
        "".join(chr(_BYTE + byte) for byte in encode_reader_name(char))
        if 0xDC80 <= ord(char) <= 0xDCFF or _stands_for_a_byte(char)
        else char
        for char in name
    )


def name_of(packed: str) -> str:
    """The reader's name that has travelled."""
    if packed.isascii():
        return packed
    return decode_reader_name(
        b"".join(bytes((ord(char) - _BYTE,)) if _stands_for_a_byte(char) else char.encode() for char in packed)
    )


def _stands_for_a_byte(char: str) -> bool:
    return _BYTE + 0x80 <= ord(char) <= _BYTE + 0xFF


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Fields travel by position; a later protocol version may add some at the end."""


# from the guest


class Open(_Message, frozen=True, tag=1):
    """There is a new context.

    Attributes:
        program, uid, pid: who uses it, as the guest says; see `cardferry.pcsc.caller.Program`.
        patience: s that its calls wait for a turn, None for ever.
        accelerate: whether the host may run ahead for it.
    """

    context: Number
    program: Text
    uid: int | None
    pid: int | None
    patience: Annotated[float, msgspec.Meta(ge=0)] | None
    accelerate: bool = True


class Close(_Message, frozen=True, tag=2):
    """The context is closed, with all its handles."""

    context: Number


class Cancel(_Message, frozen=True, tag=3):
    """Nobody waits for this call's answer any more."""

    call: Number


class Connect(_Message, frozen=True, tag=4):
    """Connect to a reader. With call 0, ``expected`` is the protocol that the program was told."""

    call: Number
    context: Number
    handle: Number
    reader: Name
    share: Share
    protocols: Protocols
    expected: Protocols = 0


class Reconnect(_Message, frozen=True, tag=5):
    """Renew a connection; also one that was never made, because the connect failed that nobody waited for."""

    call: Number
    handle: Number
    share: Share
    protocols: Protocols
    initialization: Disposition


class Disconnect(_Message, frozen=True, tag=6):
    """Close a handle."""

    call: Number
    handle: Number
    disposition: Disposition


class Begin(_Message, frozen=True, tag=7):
    """Begin a transaction."""

    call: Number
    handle: Number


class End(_Message, frozen=True, tag=8):
    """End a transaction."""

    call: Number
    handle: Number
    disposition: Disposition


class Transmit(_Message, frozen=True, tag=9):
    """Send a command to the card.

    Attributes:
        digest: with call 0: of the answer that the program was given, see `cardferry.link.digest.digest_of`.
    """

    call: Number
    handle: Number
    apdu: Apdu
    protocol: Word
    digest: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Control(_Message, frozen=True, tag=10):
    """Send a control code to the reader."""

    call: Number
    handle: Number
    code: Word
    data: Apdu
    max_response: Word


class Attribute(_Message, frozen=True, tag=11):
    """Ask for an attribute."""

    call: Number
    handle: Number
    attribute: Word


class SetAttribute(_Message, frozen=True, tag=12):
    """Set an attribute."""

    call: Number
    handle: Number
    attribute: Word
    value: AttributeValue


class Status(_Message, frozen=True, tag=13):
    """Ask what ``SCardStatus`` would return."""

    call: Number
    handle: Number


class Used(_Message, frozen=True, tag=14):
    """So many of the responses that came ahead after transmit ``origin`` were used, and no more will be."""

    handle: Number
    origin: Number
    count: Number


class Remember(_Message, frozen=True, tag=15):
    """Tell me what the cards have said before. Only to a host that offers it."""


class Introduce(_Message, frozen=True, tag=16):
    """Let us try a connection of our own. Only to a host that offers it.

    Attributes:
        certificate: of the guest's end, made for this one attempt (DER).
    """

    certificate: Annotated[bytes, msgspec.Meta(max_length=MOST_CERTIFICATE)]


class AskQueue(_Message, frozen=True, tag=17):
    """How long is the queue of a reader? Only to a host that offers it; answered by `QueueLength`."""

    call: Number
    reader: Name


# from the host


class Welcome(_Message, frozen=True, tag=64):
    """The first message of a session: what a guest may ask for.

    Attributes:
        memory: whether it may ask the host to `Remember`.
        introduces: whether it may ask the host to `Introduce` them.
        queues: whether it may ask for the length of queues.
    """

    contexts: Number
    handles: Number
    calls: Number
    call_bytes: Number
    memory: bool = False
    introduces: bool = False
    queues: bool = False


class UserEntry(_Message, frozen=True):
    """Who has a card, or waits for it; see `cardferry.pcsc.reader_state.User`.

    Attributes:
        ms: for how long; the clocks of two computers differ.
        wait: tells one wait of a program from the next one.
        ours: whether it is a program of this guest.
    """

    client: Text
    principal: Text
    ms: Number
    wait: Number
    ours: bool


class UseEntry(_Message, frozen=True):
    """Who has a card and who waits for it; see `cardferry.pcsc.reader_state.Use`."""

    holder: UserEntry | None
    waiting: Annotated[list[UserEntry], msgspec.Meta(max_length=MAX_WAITING)]


class TroubleEntry(_Message, frozen=True):
    """Why there are no readers; see `cardferry.pcsc.trouble.Trouble`.

    Attributes:
        says: the same in words, for a guest that does not know this cause.
    """

    cause: Number
    place: Text
    detail: Text
    says: Text


class ReaderEntry(_Message, frozen=True):
    """A reader's state; see `cardferry.pcsc.reader_state.ReaderState`.

    Attributes:
        others: handles on it that are not this guest's; None from a host that does not say.
        use: who uses it, as people are told; None for nobody, and from a host that does not say.
    """

    name: Name
    event_counter: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    state: Word
    sharing: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
    atr: Annotated[bytes, msgspec.Meta(max_length=MAX_ATR_SIZE)]
    protocol: Protocols
    marks: Number | None
    others: Number | None = None
    use: UseEntry | None = None


class Readers(_Message, frozen=True, tag=65):
    """The readers have changed.

    Attributes:
        events: readers added or removed so far, as the host counts them.
        names: all readers in order; None when it is the same ones as before.
        changed: those that are new or have another state.
        troubles: what keeps readers away, all of it; None when it is the same as before, and from a host that does not
            say.
    """

    events: Number
    names: Annotated[list[Name], msgspec.Meta(max_length=MAX_READERS)] | None
    changed: Annotated[list[ReaderEntry], msgspec.Meta(max_length=MAX_READERS)]
    troubles: Annotated[list[TroubleEntry], msgspec.Meta(max_length=MAX_TROUBLES)] | None = None


class Fact(_Message, frozen=True, tag=66):
    """What a reader always says; ``about`` is a `cardferry.link.facts.About`."""

    reader: Name
    about: Annotated[int, msgspec.Meta(ge=0, le=1)]
    key: Word
    code: Code
    value: Apdu


class Answer(_Message, frozen=True, tag=67):
    """A call has ended.

    Attributes:
        code: the return code; 0 is success.
        data: response, attribute value or control data.
        protocol: the active protocol, of a connect or reconnect.
        foreseen: of a transmit: the command that the host sends to the card next by itself.
        state, level, either: of the card after it, see `cardferry.link.memory.CardMemory`; 0 where it is not known.
    """

    call: Number
    code: Code = 0
    data: Apdu = b""
    protocol: Protocols = 0
    foreseen: Apdu | None = None
    state: Number = 0
    level: Number = 0
    either: Annotated[list[Number], msgspec.Meta(max_length=4)] = []


class Ahead(_Message, frozen=True, tag=68):
    """The command that was foreseen after transmit ``origin`` has been carried out.

    Attributes:
        code: the return code. `REVOKED` says that the command was not sent to the card after all.
        data: the response.
        foreseen: the next one, if there is one.
    """

    origin: Number
    handle: Number
    code: Code
    data: Apdu = b""
    foreseen: Apdu | None = None


class Failed(_Message, frozen=True, tag=69):
    """A call that nobody waited for has failed: nothing more is done with the handle until it is mended."""

    handle: Number
    code: Code


class Recollected(_Message, frozen=True):
    """An answer that a card has given before; see `cardferry.link.memory.Recollection`."""

    number: Number
    where: Number
    key: Apdu
    answer: Apdu
    next: Number


class Learnt(_Message, frozen=True, tag=70):
    """This can be believed of the card in a reader."""

    reader: Name
    what: Annotated[list[Recollected], msgspec.Meta(max_length=4096)]


class Forgotten(_Message, frozen=True, tag=71):
    """These numbers cannot be believed any more; None: nothing can."""

    reader: Name
    numbers: Annotated[list[Number], msgspec.Meta(max_length=16384)] | None


class Confirmed(_Message, frozen=True, tag=72):
    """So many believed commands of the session are done with, and so many of them were refuted."""

    believed: Number
    refuted: Number


class Introduction(_Message, frozen=True, tag=73):
    """Where the host waits for a connection of the guest's that asked for it.

    Attributes:
        address: at which the guest has come to this computer, as the host sees it.
        port: of TCP.
        certificate: of the host's end (DER).
        refusal: why there is none, for people; empty when there is.
    """

    address: Text
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MOST_CERTIFICATE)] = b""
    refusal: Text = ""


class QueueLength(_Message, frozen=True, tag=74):
    """The answer to `AskQueue`; see `cardferry.pcsc.reader_state.Queue`.

    Attributes:
        busy, handles: None when there is no such reader, or nobody knows.
    """

    call: Number
    busy: Number | None
    handles: Number = 0


#: The code of an `Ahead` that was not carried out; no return code of PC/SC has it.
REVOKED: Final = 0xFFFF_FFFF

Call = (
    Connect | Reconnect | Disconnect | Begin | End | Transmit | Control | Attribute | SetAttribute | Status
)  # fmt: skip
#: Makes the message of a call, given the call's number.
MakeCall = Callable[[int], "Call | AskQueue"]
FromGuest = Open | Close | Cancel | Used | Remember | Introduce | AskQueue | Call
FromHost = (
    Welcome | Readers | Fact | Answer | Ahead | Failed | Learnt | Forgotten | Confirmed | Introduction | QueueLength
)


def size_of(message: Call) -> int:
    """Bytes of a call, which is no `Transmit`, that count against the limit."""
    return len(message.data) if isinstance(message, Control) else 0


#: A message's bytes.
encode: Final[Callable[[FromGuest | FromHost], bytes]] = msgspec.msgpack.Encoder().encode
_from_guest: Final[msgspec.msgpack.Decoder[FromGuest]] = msgspec.msgpack.Decoder(FromGuest)
_from_host: Final[msgspec.msgpack.Decoder[FromHost]] = msgspec.msgpack.Decoder(FromHost)
#: What bytes that are no message end in; `RecursionError` is for what is nested deeply in a field that nobody knows.
_NO_MESSAGE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_from_guest(payload: bytes) -> FromGuest:
    """What a guest says; raises `WireError` when it is no message."""
    try:
        return _from_guest.decode(payload)
    except _NO_MESSAGE as error:
        raise _not_a_message("guest", error) from error


def decode_from_host(payload: bytes) -> FromHost:
    """What a host says; raises `WireError` when it is no message."""
    try:
        return _from_host.decode(payload)
    except _NO_MESSAGE as error:
        raise _not_a_message("host", error) from error


def _not_a_message(whose: str, error: Exception) -> WireError:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return WireError(f"not a message of a {whose}: {why}")
