"""What every way to another computer can fail with."""

from __future__ import annotations

from cardferry.pcsc.errors import UserError


class TransportError(UserError):
    """The other side cannot be reached, or not be used.

    Attributes:
        heals: whether trying again later can help without anybody doing something.
    """

    heals = True


class AddressSyntaxError(UserError):
    """This is no address."""

    exit_code = 2


class NoHostError(TransportError):
    """Nobody takes links there, or not from this account."""

    exit_code = 34


class NotCardferryError(TransportError):
    """Somebody else is there."""

    exit_code = 35


class RevokedError(ConnectionError):
    """Whoever is at the other end must not be here any more: its session ends with the pipe."""


class PcscdMissingError(TransportError):
    """There is no pcscd socket where the readers are."""

    exit_code = 30


class PcscdDownError(TransportError):
    """There is a pcscd socket, and nobody answers on it."""

    exit_code = 31


class PcscdRefusesError(TransportError):
    """pcscd takes the connection and closes it without a word: polkit says no."""

    exit_code = 32
