"""What TLS between a guest and a host can fail with."""

from __future__ import annotations

import ssl
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import TransportError


class TlsError(TransportError):
    """A certificate or key is missing, or does not prove what it must; nobody but a person can mend that."""

    exit_code = 37
    heals = False


class NotTlsError(TransportError):
    """Who answers does not speak TLS 1.3, or is not cardferry."""

    exit_code = 35


class InvitationError(UserError):
    """There is no such guest, or no invitation of it."""

    exit_code = 37


#: What OpenSSL says (the reasons of ssl.h, the codes of x509_vfy.h), in words that follow who it is about.
_EXPIRED: Final = 10
_NOT_YET: Final = 9
_FOREIGN: Final = (7, 18, 19, 20, 21)
_REASONS: Final = {
    "UNSUPPORTED_PROTOCOL": "speaks no TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "speaks no TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "speaks no TLS 1.3",
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "WRONG_SSL_VERSION": "does not speak TLS",
    "HTTP_REQUEST": "does not speak TLS",
    "HTTPS_PROXY_REQUEST": "does not speak TLS",
    "PACKET_LENGTH_TOO_LONG": "does not speak TLS",
    "UNEXPECTED_MESSAGE": "does not speak TLS",
    "BAD_RECORD_TYPE": "does not speak TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "shows no certificate",
    "NO_APPLICATION_PROTOCOL": "is not cardferry, or of another age",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that the certificate of this computer has expired",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know who issued the certificate of this computer",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a certificate, and got none",
}


def what_is_wrong(error: Exception) -> str:
    """What somebody does wrong who could not be talked to, in words that follow who that is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "has a certificate that has expired"
        if error.verify_code == _NOT_YET:
            return "has a certificate that is not valid yet: see the clocks"
        if error.verify_code in _FOREIGN:
            return "has a certificate of somebody else"
        return f"has a certificate that is not good for this: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASONS.get(error.reason, f"cannot be talked to: {error.reason.lower().replace('_', ' ')}")
    if isinstance(error, TimeoutError):
        return "has not proved who it is in time"
    if isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLError):
        return "has gone before it had proved who it is"
    return f"cannot be talked to: {error}"
