"""Small cards for the link's tests."""

from __future__ import annotations

from cardferry.pcsc.apdu import CommandApdu, ResponseApdu, StatusWord

#: Speaks T=1 only.
ATR = bytes.fromhex("3b80800101")
COUNT = bytes.fromhex("80cc000000")
SELECT = bytes.fromhex("00a40000023f00")


class CountingCard:
    """Each command counts, and is answered with the count: four bytes, then 9000."""

    def __init__(self) -> None:
        self.atr = ATR
        self.count = 0
        self.resets = 0

    def power_on(self) -> bytes:
        return ATR

    def reset(self) -> bytes:
        self.resets += 1
        return ATR

    def power_off(self) -> None:
        """Nothing is lost."""

    def process(self, apdu: bytes) -> bytes:
        self.count += 1
        return self.count.to_bytes(4, "big") + b"\x90\x00"

    def slow(self, apdu: bytes) -> bool:
        return False


class FileCard(CountingCard):
    """A file to read with ``READ BINARY``, and answers that must be fetched with ``GET RESPONSE``.

    Attributes:
        seen: every command, in order.
        content: the file.
        portion: bytes that one response can have.
        tells_size: whether ``SELECT`` is answered with the file's size.
    """

    def __init__(self, content: bytes = b"", portion: int = 256, *, tells_size: bool = False) -> None:
        super().__init__()
        self.seen: list[bytes] = []
        self.content = content
        self.portion = portion
        self.tells_size = tells_size
        self._pending = b""

    def process(self, apdu: bytes) -> bytes:
        super().process(apdu)
        self.seen.append(apdu)
        command = CommandApdu.parse(apdu)
        if command.ins != 0xC0:
            self._pending = b""
        match command.ins:
            case 0xA4:
                size = len(self.content).to_bytes(2, "big")
                return (b"\x6f\x04\x80\x02" + size if self.tells_size else b"") + b"\x90\x00"
            case 0xB0:
                offset = command.p1 << 8 | command.p2
                if offset > len(self.content):
                    return b"\x6b\x00"
                data = self.content[offset : offset + min(command.ne, self.portion)]
                return ResponseApdu(data, StatusWord(0x9000 if len(data) == command.ne else 0x6282)).encode()
            case 0xCA:
                self._pending = self.content
                return self._more(self.portion)
            case 0xC0:
                return self._more(command.ne) if self._pending else b"\x69\x85"
            case _:
                return self.count.to_bytes(4, "big") + b"\x90\x00"

    def _more(self, most: int) -> bytes:
        data, self._pending = self._pending[:most], self._pending[most:]
        left = len(self._pending)
        status = StatusWord.more_data(left) if left else StatusWord(0x9000)
        return ResponseApdu(data, status).encode()
