"""What the NATS library raises, as errors for people."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cardferry.transports.nats.errors import NatsError, NatsRefusesError

_SERVERS_HINT: Final = (
    "see that nats-server runs there; servers are in the table [fleet] of the configuration, or --fleet"
)
#: JetStream's own number for "system temporarily unavailable" (nats-server, ``JSClusterNotAvailErr``).
_NO_LEADER: Final = 10008


@contextmanager
def explained(where: str) -> Iterator[None]:
    """What the library raises within the block is a `NatsError`.

    Args:
        where: the server, for people.
    """
    import nkeys  # noqa: PLC0415 - an extra
    from nats import errors  # noqa: PLC0415
    from nats.js import errors as js  # noqa: PLC0415

    try:
        yield
    except NatsError:
        raise
    except (js.ServiceUnavailableError, js.NoStreamResponseError) as error:
        if isinstance(error, js.NoStreamResponseError) or error.err_code == _NO_LEADER:
            raise NatsError(
                f"NATS at {where} keeps no directory at the moment",
                "its servers are choosing who keeps it; when that lasts, the log of nats-server says why",
            ) from None
        raise NatsRefusesError(
            f"NATS at {where} keeps no directory: it runs without JetStream, or this account may not use it",
            "start nats-server with --jetstream, or with jetstream {} in its configuration",
        ) from None
    except js.APIError as error:
        raise NatsError(f"NATS at {where} refuses: {error.description}", "its log says why") from None
    except ssl.SSLCertVerificationError as error:
        raise NatsRefusesError(
            f"NATS at {where} is not believed: {error.verify_message}",
            "name who has signed its certificate: ca in [fleet]",
        ) from None
    except (errors.AuthorizationError, errors.InvalidUserCredentialsError, nkeys.NkeysError, ValueError) as error:
        raise _not_let_in(where, f": {error}") from None
    except (OSError, TimeoutError, errors.Error) as error:
        words = str(error.strerror or error) if isinstance(error, OSError) else str(error)
        if isinstance(error, ConnectionError) and error.errno:
            words = os.strerror(error.errno)  # asyncio writes a call and an address there
        if isinstance(error, ssl.SSLError) and "alert" in words.lower() and "certificate" in words.lower():
            raise NatsRefusesError(
                f"NATS at {where} wants a certificate of this computer that it believes",
                "name one that its authority has signed: cert and key in the table [fleet]",
            ) from None
        if "authorization violation" in words.lower() or "authentication" in words.lower():
            raise _not_let_in(where) from None
        if isinstance(error, TimeoutError | errors.TimeoutError):
            words = "no answer in time"
        raise NatsError(f"no NATS service at {where}: {words}", _SERVERS_HINT) from None


def _not_let_in(where: str, why: str = "") -> NatsRefusesError:
    return NatsRefusesError(
        f"NATS at {where} does not let this computer in{why}",
        "see credentials in the table [fleet] of the configuration, and the users that nats-server has",
    )
