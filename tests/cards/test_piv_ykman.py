"""What ykman 5.9.2 says to the built-in card, as recorded, and what a YubiKey answers.

Left out are the management key's log-in, whose bytes are other ones each time (`Client.administrator` does it), and the
certificates, which have tests of their own.
"""

from __future__ import annotations

import pytest

from cardferry.app.hosts.sources import VIRTUAL_READER
from cardferry.cards.piv import Slot
from tests.cards.client import Client

#: Before each command of `ykman piv`: is it a YubiKey with other applications, and which version is its PIV?
SCAN = """
00a4040008a000000527471117 6a82
00a4040007a0000005272001 6a82
00a4040008a0000006472f0001 6a82
00a4040007a0000005271002 6a82
00a4040005a000000308 61204f0600001000010079074f05a000000308500d636172646665727279205049569000
00a4040006d27600012401 6a82
00a4040007a0000005272101 6a82
00a4040005a000000308 61204f0600001000010079074f05a000000308500d636172646665727279205049569000
00fd000000 0504039000
00f7009b00 010103020200010501019000
00cb3fff055c035fff00 6a82
"""

INFO = """
00f7008000 0101ff050101060203039000
00f7009600 6a88
00f7008100 0101ff050101060203039000
00f7009b00 010103020200010501019000
"""

#: After the log-in with the management key.
SET_RETRIES = """
0020008008313233343536ffff 9000
00fa050600 9000
"""

#: After `SET_RETRIES`: it blocks PIN and PUK with nothing but padding, and looks at the tries that are left.
RESET = """
00f7009600 6a88
00f7008000 0101ff050101060205059000
0020008008ffffffffffffffff 63c4
0020008008ffffffffffffffff 63c3
0020008008ffffffffffffffff 63c2
0020008008ffffffffffffffff 63c1
0020008008ffffffffffffffff 6983
00f7008100 0101ff050101060206069000
002c008010ffffffffffffffffffffffffffffffff 63c5
002c008010ffffffffffffffffffffffffffffffff 63c4
002c008010ffffffffffffffffffffffffffffffff 63c3
002c008010ffffffffffffffffffffffffffffffff 63c2
002c008010ffffffffffffffffffffffffffffffff 63c1
002c008010ffffffffffffffffffffffffffffffff 6983
00fb000000 9000
00f7009b00 010103020200010501019000
00f7008100 0101ff050101060203039000
"""


def converse(client: Client, recorded: str) -> None:
    for line in recorded.split("\n"):
        if line:
            command, answer = line.split()
            assert (command, client.hex(command).lower()) == (command, answer)


def test_piv_info(client: Client) -> None:
    converse(client, SCAN + INFO)
    for slot in range(0x82, 0x96):
        assert client.hex(f"00f700{slot:02x}00") == "6A88"
    assert client.hex("00f700f900") == "6A88"


def test_set_retries_and_reset(client: Client) -> None:
    converse(client, SCAN)
    assert client.hex("00f7009600") == "6A88"
    assert client.administrator() == 0x9000
    converse(client, SET_RETRIES)
    converse(client, SCAN + RESET)
    assert client.card.contents.keys == {}
    assert client.verify() == 0x9000


def test_the_readers_name_is_one_that_ykman_and_yubico_piv_tool_look_for() -> None:
    """`ykman.pcsc` and `ykpiv.c` look for these words in any case; the interfaces are read from the name, too."""
    assert "yubico yubikey" in VIRTUAL_READER.lower()
    assert "CCID" in VIRTUAL_READER


@pytest.mark.parametrize("reference", [0x00, 0x82, 0x95, 0x96, 0xF9, 0xFF])
def test_metadata_of_what_is_not_there(client: Client, reference: int) -> None:
    client.card.contents.keys.pop(Slot.RETIRED_1, None)
    assert client.hex(f"00f700{reference:02x}00") == "6A88"
