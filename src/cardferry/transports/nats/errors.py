"""What the way through NATS can fail with."""

from __future__ import annotations

from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import TransportError


class NatsError(TransportError):
    """The NATS service cannot be reached, or does not let us do what we must."""

    exit_code = 39


class NatsRefusesError(NatsError):
    """It does not know us, or lacks something; nobody but a person can mend that."""

    heals = False


class NameTakenError(UserError):
    """Another host of the fleet has that name."""

    exit_code = 39


class ExtraMissingError(UserError):
    """The library is not installed."""

    exit_code = 39
