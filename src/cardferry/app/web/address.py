"""Where the page is: an address of this computer alone, and a port."""

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
    """There can be no page at that address."""

    exit_code = 13


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where the page is.

    Attributes:
        host: an address of the loopback.
        port: 0 for any that is free.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> WebAddress:
        """Read ``ADDRESS:PORT``.

        Raises:
            AddressSyntaxError: it is none.
            WebError: other computers could reach it.
        """
        host, _, port = text.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
        try:
            address = ipaddress.ip_address(host)
            number = int(port) if port.isascii() and port.isdecimal() else -1
        except ValueError:
            address, number = None, -1
        if address is None or not 0 <= number <= _MOST_PORT:
            raise AddressSyntaxError(f"not an address for the page: {text!r}", f"write ADDRESS:PORT, as in {DEFAULT}")
        if not address.is_loopback:
            raise WebError(
                f"the page cannot be at {text}: it is for this computer alone, because nothing encrypts it",
                f"start it with --web {DEFAULT}; elsewhere: ssh -L 7765:{DEFAULT} HOST",
            )
        return cls(str(address), number)

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
                f"the page cannot be at {self}: {error.strerror}", "choose another port, as in --web 127.0.0.1:7766"
            ) from None
        return listening
