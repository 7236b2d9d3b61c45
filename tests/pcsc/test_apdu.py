"""Commands, responses and status words (ISO 7816-3:2006, 12.1; ISO 7816-4:2020, 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.apdu import ApduError, Case, CommandApdu, ResponseApdu, StatusWord

BYTE = st.integers(0, 255)

#: The seven cases, byte by byte as ISO 7816-3, table 13 lays them out: bytes, case, data, Ne.
GOLDEN = [
    ("00A40000", Case.CASE_1, "", 0),
    ("00B0000010", Case.CASE_2S, "", 16),
    ("00B0000000", Case.CASE_2S, "", 256),
    ("00A40004023F00", Case.CASE_3S, "3F00", 0),
    ("00A4040005A000000308 00", Case.CASE_4S, "A000000308", 256),
    ("00A40400 05A000000308 10", Case.CASE_4S, "A000000308", 16),
    ("00B00000 00 0100", Case.CASE_2E, "", 256),
    ("00B00000 00 0000", Case.CASE_2E, "", 65536),
    ("00D60000 00 0003 AABBCC", Case.CASE_3E, "AABBCC", 0),
    ("00CB3FFF 00 0003 5C017E 0000", Case.CASE_4E, "5C017E", 65536),
    ("00CB3FFF 00 0003 5C017E 0001", Case.CASE_4E, "5C017E", 1),
]


@pytest.mark.parametrize(("text", "case", "data", "ne"), GOLDEN)
def test_the_seven_cases(text: str, case: Case, data: str, ne: int) -> None:
    raw = bytes.fromhex(text)
    command = CommandApdu.parse(raw)
    assert command.case is case
    assert command.data == bytes.fromhex(data)
    assert command.ne == ne
    assert command.extended is case.value.endswith("E")
    assert bytes((command.cla, command.ins, command.p1, command.p2)) == raw[:4]
    assert command.encode() == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00A400",
        "00A40000 02 3F",  # Lc longer than the data
        "00A40000 01 3F 00 00",  # a byte too many
        "00A40000 00 00",  # inside an extended length
        "00A40000 00 0002 3F",  # extended Lc longer than the data
        "00A40000 00 0001 3F 00",  # half an extended Le
        "00A40000 00 0001 3F 00 00 00",  # a byte too many
        "00A40000 00 0000 0000",  # extended Lc zero
    ],
)
def test_lengths_that_do_not_fit(text: str) -> None:
    with pytest.raises(ApduError):
        CommandApdu.parse(bytes.fromhex(text))


COMMANDS = st.builds(
    CommandApdu,
    cla=BYTE,
    ins=BYTE,
    p1=BYTE,
    p2=BYTE,
    data=st.binary(max_size=700),
    ne=st.one_of(st.integers(0, 300), st.integers(0, 65536)),
    extended=st.booleans(),
)


@given(COMMANDS)
def test_round_trip(command: CommandApdu) -> None:
    assert CommandApdu.parse(command.encode()) == command


@given(st.binary(max_size=600))
def test_any_bytes_are_a_command_or_the_one_error(raw: bytes) -> None:
    try:
        command = CommandApdu.parse(raw)
    except ApduError:
        return
    assert command.encode() == raw


@given(st.integers(0, 255), st.binary(max_size=65535))
def test_the_longest_commands_round_trip(first: int, data: bytes) -> None:
    data = (data + bytes(65535))[: 65535 - first]
    command = CommandApdu(0, 0xDB, 0x3F, 0xFF, data, 65536)
    assert CommandApdu.parse(command.encode()) == command


def test_lengths_decide_about_extended() -> None:
    assert CommandApdu(0, 0, 0, 0, bytes(256)).extended
    assert CommandApdu(0, 0, 0, 0, b"", 257).extended
    assert not CommandApdu(0, 0, 0, 0, bytes(255), 256).extended
    assert not CommandApdu(0, 0, 0, 0, extended=True).extended


@pytest.mark.parametrize(
    "values",
    [
        {"cla": 256},
        {"p2": -1},
        {"data": bytes(65536)},
        {"ne": 65537},
        {"ne": -1},
    ],
)
def test_values_out_of_range(values: dict[str, int | bytes]) -> None:
    with pytest.raises(ApduError):
        CommandApdu(**({"cla": 0, "ins": 0, "p1": 0, "p2": 0} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cla", "interindustry", "chained", "channel", "secure"),
    [
        (0x00, True, False, 0, False),
        (0x10, True, True, 0, False),
        (0x03, True, False, 3, False),
        (0x04, True, False, 0, True),
        (0x0C, True, False, 0, True),
        (0x1F, True, True, 3, True),
        (0x20, False, False, 0, False),  # reserved
        (0x40, True, False, 4, False),
        (0x4F, True, False, 19, False),
        (0x60, True, False, 4, True),
        (0x70, True, True, 4, True),
        (0x80, False, False, 0, False),
        (0x84, False, False, 0, True),
        (0x90, False, False, 0, False),
        (0xFF, False, False, 0, True),
    ],
)
def test_class_byte(cla: int, interindustry: bool, chained: bool, channel: int, secure: bool) -> None:
    command = CommandApdu(cla, 0xA4, 0, 0)
    assert command.interindustry is interindustry
    assert command.is_chained is chained
    assert command.channel == channel
    assert command.secure_messaging is secure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00C0000000", True),
        ("01C0000010", True),
        ("00C00000000000", True),
        ("00C00000", False),  # expects nothing
        ("00C0000100", False),
        ("00C00000010000", False),  # carries data
        ("04C0000000", False),  # secure messaging
        ("10C0000000", False),  # chained
        ("80C0000000", False),  # proprietary
        ("00B0000000", False),
    ],
)
def test_get_response_is_recognised(text: str, expected: bool) -> None:
    assert CommandApdu.parse(bytes.fromhex(text)).is_get_response is expected


@pytest.mark.parametrize(
    ("text", "expected", "offset"),
    [
        ("00B0000000", True, 0),
        ("00B07FFF00", True, 0x7FFF),
        ("00B0012310", True, 0x123),
        ("00B000100000 00", True, 0x10),
        ("00B0810000", True, None),  # names a file by its short identifier
        ("00B00000", False, None),
        ("00B100000454020000 00", False, None),  # odd INS: the offset is in the data
        ("04B0000000", False, None),
        ("80B0000000", False, None),
        ("10B0000000", False, None),
        ("00B00000010000", False, None),
    ],
)
def test_read_binary_is_recognised(text: str, expected: bool, offset: int | None) -> None:
    command = CommandApdu.parse(bytes.fromhex(text))
    assert command.is_read_binary is expected
    assert command.binary_offset == offset


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0x9000, "done"),
        (0x6110, "16 more bytes are waiting"),
        (0x6100, "256 more bytes are waiting"),
        (0x6C08, "wrong expected length, 8 bytes are there"),
        (0x63C2, "verification failed, 2 tries left"),
        (0x63C1, "verification failed, 1 try left"),
        (0x6983, "authentication method blocked"),
        (0x6A82, "file or application not found"),
        (0x6AFF, "wrong parameters"),
        (0x6282, "warning, memory unchanged"),
        (0x1234, "unknown status"),
    ],
)
def test_status_words_have_a_text(value: int, text: str) -> None:
    assert StatusWord(value).text == text


def test_status_words_are_numbers_with_a_meaning() -> None:
    assert StatusWord.SUCCESS == 0x9000
    assert StatusWord.SUCCESS.is_success
    assert StatusWord(0x6105).is_success
    assert not StatusWord.FILE_NOT_FOUND.is_success
    assert (StatusWord.FILE_NOT_FOUND.sw1, StatusWord.FILE_NOT_FOUND.sw2) == (0x6A, 0x82)
    assert StatusWord.FILE_NOT_FOUND.encode() == b"\x6a\x82"
    assert str(StatusWord(0x9000)) == "9000"
    assert repr(StatusWord(0x9000)) == "StatusWord(0x9000)"
    assert StatusWord(0x6100).remaining == 256
    assert StatusWord(0x6101).remaining == 1
    assert StatusWord(0x9000).remaining is None
    assert StatusWord(0x6C00).correct_le == 256
    assert StatusWord(0x9000).correct_le is None
    assert StatusWord(0x63C7).tries_left == 7
    assert StatusWord(0x6983).tries_left == 0
    assert StatusWord(0x6300).tries_left is None
    assert StatusWord.more_data(255) == 0x61FF
    assert StatusWord.more_data(256) == 0x6100
    assert StatusWord.more_data(70000) == 0x6100
    assert StatusWord.retries(3) == 0x63C3
    assert StatusWord.retries(200) == 0x63CF


@pytest.mark.parametrize("value", [-1, 0x10000])
def test_what_is_no_status_word(value: int) -> None:
    with pytest.raises(ApduError):
        StatusWord(value)


@given(st.integers(0, 0xFFFF))
def test_every_status_word_has_a_text(value: int) -> None:
    assert StatusWord(value).text


def test_responses_split() -> None:
    response = ResponseApdu.parse(bytes.fromhex("6F039000 6105"))
    assert response.data == bytes.fromhex("6F039000")
    assert response.status.remaining == 5
    assert response.encode() == bytes.fromhex("6F0390006105")
    assert ResponseApdu.parse(b"\x90\x00") == ResponseApdu(b"", StatusWord.SUCCESS)


@pytest.mark.parametrize("raw", [b"", b"\x90"])
def test_what_is_no_response(raw: bytes) -> None:
    with pytest.raises(ApduError):
        ResponseApdu.parse(raw)
