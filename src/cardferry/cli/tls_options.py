"""Options for certificates of a public key infrastructure. Light, because `cardferry host` starts often."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, NamedTuple, TypeVar, cast

import click

Function = TypeVar("Function", bound=Callable[..., Any])


#: Their names, as keys of the configuration file.
OPTIONS: Final = ("tls-ca", "tls-cert", "tls-key")


class TlsFiles(NamedTuple):
    """Paths, or none."""

    authority: str | None
    certificate: str | None
    key: str | None

    def into(self, address: str) -> str:
        """The same address with these files, if there are any and it is one of TLS that names none."""
        if self.authority is None or not address.startswith(("tls:", "fleet:")) or "ca=" in address:
            return address
        named = self.authority, self.certificate or "", self.key or ""
        if address.startswith("fleet:"):
            from cardferry.transports.nats.address import FleetAddress  # noqa: PLC0415 - see the module

            return str(FleetAddress.parse(address.removeprefix("fleet:"), address).with_files(*named))
        from cardferry.transports.tls.address import TlsAddress  # noqa: PLC0415 - see the module

        rest = address.removeprefix("tls:")
        parsed = TlsAddress.parse(rest, address) if rest.startswith("//") else TlsAddress.parse_listening(rest, address)
        return parsed.with_files(*named).written(rest.startswith("//"))


def tls_options(function: Function) -> Function:
    """``--tls-ca``, ``--tls-cert`` and ``--tls-key``; the command gets them as ``tls_files``."""

    @wraps(function)
    def command(*, tls_ca: str | None, tls_cert: str | None, tls_key: str | None, **rest: Any) -> Any:
        files = TlsFiles(tls_ca, tls_cert, tls_key)
        if any(files) and not all(files):
            raise click.UsageError("--tls-ca, --tls-cert and --tls-key belong together")
        return function(tls_files=files, **rest)

    for name, help_ in (
        ("--tls-key", "the key of --tls-cert, readable for this account alone"),
        ("--tls-cert", "the certificate that this end shows, in PEM"),
        ("--tls-ca", "for tls: and fleet: addresses, where you have an authority of your own: its certificate, in PEM"),
    ):
        command = click.option(name, metavar="FILE", help=help_)(command)
    return cast(Function, command)
