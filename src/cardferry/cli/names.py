"""Names that a shell completes: hosts of ssh's configuration, what is attached, and readers.

Nothing here is an error: who has no configuration, or nothing attached, gets fewer names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cardferry.app.runtime.status_socket import Running

#: How deep OpenSSH follows ``Include`` (``READCONF_MAX_DEPTH`` in readconf.c).
_MOST_DEEP: Final = 16
_SYSTEM: Final = Path("/etc/ssh/ssh_config")
_LINE: Final = re.compile(r"\s*(host|include)(?:\s*=\s*|\s+)(.+?)\s*", re.IGNORECASE)


def hosts() -> list[str]:
    """What ``HOST`` may be: the names of ``Host`` lines that are no patterns, and what is attached."""
    own = Path.home() / ".ssh"
    named = [*ssh_hosts(own / "config", own), *ssh_hosts(_SYSTEM, _SYSTEM.parent)]
    return _fit([*named, *joined_hosts(), *(link.host for one in _running() for link in one.links if one.serves)])


def joined_hosts() -> list[str]:
    """Hosts that this computer has joined over TLS, as `attach` takes them."""
    from cardferry.transports.tls.files import joined_places  # noqa: PLC0415 - not for who has no names to complete

    return [place if host == "fleet" else host if port == "7764" else f"tls://{place}" for place in joined_places()
            for host, _, port in [place.rpartition(":")]]  # fmt: skip


def readers() -> list[str]:
    """The names of the readers that are attached, shared or served."""
    return _fit(reader.reader for one in _running() for reader in one.readers)


def ssh_hosts(path: Path, folder: Path, depth: int = 0) -> Iterator[str]:
    """The names in a configuration of ssh, and in what it includes (ssh_config(5)).

    Args:
        path: of the configuration.
        folder: where included files are that are named without their folder.
    """
    text = ""
    with suppress(OSError):
        text = path.read_text(errors="replace")
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        for word in re.findall(r'"[^"]*"|\S+', match[2]) if match else ():
            value = word.strip('"')
            if match and match[1].lower() == "host":
                if not re.search(r"[*?!]", value):
                    yield value
            elif depth < _MOST_DEEP:
                where = folder / Path(value).expanduser()
                for included in sorted(Path(where.anchor).glob(str(where.relative_to(where.anchor)))):
                    yield from ssh_hosts(included, folder, depth + 1)


def _running() -> list[Running]:
    from cardferry.app.runtime.paths import runtime_folder  # noqa: PLC0415 - not for who has no names to complete
    from cardferry.app.runtime.status_socket import running  # noqa: PLC0415
    from cardferry.pcsc.errors import UserError  # noqa: PLC0415

    with suppress(UserError):
        return running(runtime_folder())
    return []


def _fit(names: Iterable[str]) -> list[str]:
    """Each once; none that would do something to the terminal."""
    return [name for name in dict.fromkeys(names) if name.isprintable()]


def beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin with what was typed, however it is written."""
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]
