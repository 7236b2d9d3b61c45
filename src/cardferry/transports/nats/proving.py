"""With what a computer proves itself to a NATS service: a file of credentials or an nkey's seed; files for TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cardferry.transports.nats.errors import NatsRefusesError
from cardferry.transports.nats.settings import FleetSettings

#: What a file of credentials has.
_CREDENTIALS: Final = ("NATS USER JWT", "USER NKEY SEED")


def is_seed(path: str) -> bool:
    """Whether a file has just an nkey's seed, rather than NATS credentials; raises `NatsRefusesError`."""
    import nkeys  # noqa: PLC0415 - an extra

    if not path:
        return False
    seed = False
    try:
        text = Path(path).read_text().strip()
        seed = text.startswith("SU")
        if seed:
            nkeys.from_seed(bytearray(text.encode()))
    except (OSError, UnicodeDecodeError, nkeys.NkeysError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it has no seed of an nkey" if seed else "it is no text"
        raise _no_credentials(path, f"cannot be read: {why}") from None
    if not seed and not all(f"BEGIN {part}" in text for part in _CREDENTIALS):
        raise _no_credentials(path, "are neither credentials nor an nkey's seed")
    return seed


def _no_credentials(path: str, why: str) -> NatsRefusesError:
    return NatsRefusesError(
        f"the NATS credentials {path} {why}",
        "correct credentials in the table [fleet]: a file of NATS credentials, as nsc makes it, or with an nkey's seed",
    )


def tls_context(settings: FleetSettings) -> ssl.SSLContext | None:
    """What to talk TLS with; raises `NatsRefusesError`."""
    if not (settings.ca or settings.cert or any(one.startswith(("tls:", "wss:")) for one in settings.servers)):
        return None
    try:
        made = ssl.create_default_context(cafile=settings.ca or None)
        if settings.cert:
            made.load_cert_chain(settings.cert, settings.key or None)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(filter(None, (settings.ca, settings.cert, settings.key)))
        raise NatsRefusesError(
            f"the TLS files for NATS cannot be used ({named}): {error.strerror or error}",
            "correct ca, cert and key in the table [fleet] of the configuration",
        ) from None
    return made
