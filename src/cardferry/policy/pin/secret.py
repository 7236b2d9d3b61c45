"""A PIN that is kept for machines without a person: in a private file, given by systemd, or in a keyring.

It is read each time it is needed, so that it is in memory no longer than that.
"""

from __future__ import annotations

import asyncio
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
    """Where a PIN is kept.

    ``file:PATH``; ``credential:NAME``, given by systemd (systemd.exec(5), ``LoadCredentialEncrypted=``); or
    ``keyring:SERVICE/USER``, in the keyring of the desktop (the library keyring).
    """

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
        if kind == "keyring" and all(name.partition("/")):
            return cls(kind, name)
        raise ValueError(f"{text!r} is neither file:/PATH nor credential:NAME nor keyring:SERVICE/USER")

    @property
    def is_file(self) -> bool:
        """Whether its name is a path."""
        return self.kind == "file"

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.kind}:{self.name}"

    async def read(self, environ: Mapping[str, str] = os.environ) -> bytearray:
        """The PIN, which is the caller's to wipe; raises `SecretError`."""
        if self.kind == "keyring":
            pin = bytearray((await asyncio.to_thread(self._in_keyring)).encode())  # a desktop may be slow
        else:
            pin = self._in_file(self._path(environ))
        if not pin or len(pin) > _MOST or not pin.isascii():
            raise SecretError(f"what is in {self} is no PIN", "write it on one line")
        return pin

    def _in_file(self, path: Path) -> bytearray:
        pin = bytearray(_MOST + 2)
        try:
            check_trusted(path.parent, "keep it elsewhere, and name that by pin-from")
            with path.open("rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                if found.st_uid not in (os.getuid(), 0) or stat.S_IMODE(found.st_mode) & self._of_others(found):
                    raise SecretError(f"others can read the PIN in {path}", f"chmod 600 {path}")
                del pin[file.readinto(pin) or 0 :]
        except OSError as error:
            raise SecretError(
                f"the PIN in {path} cannot be read: {error.strerror}", "put it there, or name another place by pin-from"
            ) from None
        del pin[len(pin.rstrip(b"\r\n")) :]
        return pin

    def _of_others(self, found: os.stat_result) -> int:
        """The access rights that nobody but us may have.

        A credential for a unit with ``User=`` is root's and has an access control list for that user, whose mask is
        shown as the group's right to read (acl(5); systemd's ``add_acls_for_user``).
        """
        by_list = self.kind == "credential" and (found.st_uid, found.st_gid) == (0, 0)
        return 0o037 if by_list else 0o077

    def _in_keyring(self) -> str:
        service, _, user = self.name.partition("/")
        try:
            import keyring  # noqa: PLC0415 - an extra
            from keyring.errors import KeyringError  # noqa: PLC0415
        except ImportError:
            raise SecretError(
                f"the PIN in {self} cannot be read: the library keyring is not installed",
                "install it with the extra keyring, as in: uv tool install './cardferry[keyring]'; "
                "or keep the PIN in a file",
            ) from None
        try:
            pin = keyring.get_password(service, user)
        except (KeyringError, RuntimeError) as error:
            raise SecretError(f"the PIN in {self} cannot be read: {error}",
                              "unlock the keyring of the account that has the reader") from None  # fmt: skip
        if pin is None:
            raise SecretError(f"there is no PIN in {self}", f"keyring set {service} {user}")
        return pin

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
