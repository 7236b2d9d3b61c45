"""The pcsc-lite socket: any program that is linked with libpcsclite finds its readers here.

The bytes are understood by `cardferry.wire.pcsclite`, the calls are answered by any `ResourceManager`. One connection
is one SCARDCONTEXT; `connection.Connection` serves it, `frontend.PcscliteFrontend` holds what connections share.
"""

from cardferry.frontends.pcsclite.frontend import PcscliteFrontend

__all__ = ["PcscliteFrontend"]
