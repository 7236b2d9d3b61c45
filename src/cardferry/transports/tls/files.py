"""Files with keys and certificates: ours alone where they are secret, replaced as a whole, and looked at before use."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from cardferry.transports.folders import check_trusted
from cardferry.transports.tls.errors import TlsError

_ELSEWHERE: Final = "set XDG_DATA_HOME to a folder of your own"
Stamp = tuple[tuple[int, int, int], ...]


def data_folder() -> Path:
    """Where keys, certificates and what is known of guests are; made if it is not there, for this account alone."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_trusted(folder.absolute(), _ELSEWHERE)
    except OSError as error:
        raise TlsError(f"the folder {folder} cannot be made: {error.strerror}", _ELSEWHERE) from None
    return folder


def cannot_be_written(error: OSError) -> TlsError:
    """What to tell people when something in the folder cannot be written."""
    return TlsError(f"{error.filename or _folder()} cannot be written: {error.strerror}", _ELSEWHERE)


def host_folder() -> Path:
    """Where this account has what it needs as a host; it need not be there."""
    return _folder() / "host"


def joined_folder(place: str) -> Path:
    """Where keys and certificates for a host are, ``HOST:PORT``; it need not be there."""
    return _folder() / f"joined-{place}"


def joined_places() -> list[str]:
    """All hosts that were joined, ``HOST:PORT``."""
    return [path.name.partition("-")[2] for path in sorted(_folder().glob("joined-*"))]


def _folder() -> Path:
    return user_data_path("cardferry") / "tls"


def check_key(path: Path) -> None:
    """See that nobody else can read a private key, or put another one in its place.

    Raises:
        TlsError: somebody can, or it is not there.
        FolderUnsafeError: others can write in its folder, or on the way to it.
    """
    try:
        check_trusted(path.parent.absolute(), "keep the key in a folder of your own")
        found = path.stat()
    except OSError as error:
        raise TlsError(f"the key {path} cannot be read: {error.strerror}", "name another file") from None
    if found.st_uid not in (os.getuid(), 0) or stat.S_IMODE(found.st_mode) & 0o077:
        raise TlsError(f"others can read the key {path}", f"chmod 600 {shlex.quote(str(path))}")


def stamp(paths: Sequence[Path]) -> Stamp:
    """Another value when one of the files is another one; raises `OSError`."""
    found = [path.stat() for path in paths]
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
