"""A PIN that is kept for machines without a person: in a file that only the account can read, or given by systemd.

It is read each time it is needed, so that it is in memory no longer than that.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.folders import check_trusted

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST: Final = 64


class SecretError(UserError):
    """A PIN that the host keeps cannot be read, or others can read it."""

    exit_code = 16


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a PIN is kept: ``file:PATH``, or ``credential:NAME`` (systemd.exec(5), ``LoadCredentialEncrypted=``)."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> SecretPlace:
        """Read one; raises `ValueError` in words for people."""
        kind, _, name = text.partition(":")
        if kind == "file" and name.startswith("/"):
            return cls(kind, name)
        if kind == "credential" and _NAME.fullmatch(name):
            return cls(kind, name)
        raise ValueError(f"{text!r} is neither file:/PATH nor credential:NAME")

    def read(self, environ: Mapping[str, str] = os.environ) -> str:
        """The PIN; raises `SecretError`."""
        path = self._path(environ)
        try:
            check_trusted(path.parent, "keep it elsewhere, and name that by pin-from")
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid not in (os.getuid(), 0) or stat.S_IMODE(found.st_mode) & 0o077:
                    raise SecretError(f"others can read the PIN in {path}", f"chmod 600 {path}")
                pin = file.read(_MOST + 1).strip(b"\r\n")
        except OSError as error:
            raise SecretError(f"the PIN in {path} cannot be read: {error.strerror}", "see pin-from") from None
        if not pin or len(pin) > _MOST or not pin.isascii():
            raise SecretError(f"what is in {path} is no PIN", "write it on one line")
        return pin.decode()

    def _path(self, environ: Mapping[str, str]) -> Path:
        if self.kind == "file":
            return Path(self.name)
        folder = environ.get("CREDENTIALS_DIRECTORY", "")
        if not folder.startswith("/"):
            raise SecretError(
                f"there is no credential {self.name}: systemd has given none to this process",
                "LoadCredentialEncrypted= in the unit; see systemd-creds(1)",
            )
        return Path(folder) / self.name
