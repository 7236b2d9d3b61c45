"""The one error of every codec: the other side's bytes break the protocol."""

from __future__ import annotations

from cardferry.pcsc.errors import CardferryError


class WireError(CardferryError):
    """The other side sent bytes that cannot be a message of the protocol.

    Where the next message begins is not known any more: close the connection.

    Attributes:
        received: whole messages that came in the same piece of input before the bad bytes, and that no call has
            returned. Empty where a codec's ``receive`` returns them itself.
    """

    def __init__(self, message: str, received: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.received = received
