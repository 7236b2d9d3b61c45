"""Where the page is, or the metrics: an address and a port."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import AddressSyntaxError

DEFAULT: Final = "127.0.0.1:7765"
_MOST_PORT: Final = 65535


class WebError(UserError):
    """There can be no page, or no metrics, at that address."""

    exit_code = 13


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where something is served over HTTP.

    Attributes:
        host: an IP address.
        port: 0 for any that is free.
        option: that it was given with.
    """

    host: str
    port: int
    option: str = "--web"

    @classmethod
    def parse(cls, text: str, option: str = "--web", default: str = DEFAULT) -> WebAddress:
        """Read ``ADDRESS:PORT``; raises `AddressSyntaxError`.

        Args:
            option: that it is given with.
            default: an address to write instead.
        """
        host, _, port = text.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
        try:
            address = ipaddress.ip_address(host)
            number = int(port) if port.isascii() and port.isdecimal() else -1
        except ValueError:
            address, number = None, -1
        if address is None or not 0 <= number <= _MOST_PORT:
            raise AddressSyntaxError(f"{option} {text}: that is no ADDRESS:PORT", f"write {option} {default}")
        return cls(str(address), number, option)

    @property
    def here(self) -> bool:
        """Whether only this computer reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def family(self) -> socket.AddressFamily:
        """Of the socket."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self) -> socket.socket:
        """A listening socket; raises `WebError` when the port is taken or cannot be had."""
        listening = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(128)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise WebError(
                f"{self.option} {self}: {error.strerror}", f"choose another port: {self.option} 127.0.0.1:PORT"
            ) from None
        return listening
