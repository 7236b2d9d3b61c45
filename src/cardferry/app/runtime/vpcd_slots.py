"""Which TCP ports the virtual readers of this computer's pcscd have: what its configuration says of vpcd.

Source: reader.conf(5), and ``IFDHCreateChannelByName`` of vsmartcard's ``ifd-vpcd.c``. An entry is lines of a word and
a value. vpcd's driver has two slots, at the port that the entry names and the one above; it keeps them in static
variables, so that a second entry needs a copy of the driver's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cardferry.pcsc.errors import UserError

#: Where Debian's pcscd reads it.
FOLDER: Final = Path("/etc/reader.conf.d")
_DRIVER: Final = "libifdvpcd"
_SLOTS: Final = 2
#: ``VPCDPORT``, where an entry names no port.
_DEFAULT_PORT: Final = 35963
_LINE: Final = re.compile(r'^\s*([A-Z]+)\s+"?(.*?)"?\s*$')
#: Listens; any other name is a computer that the driver dials.
_LISTENS: Final = "/dev/null"


class NoSlotsError(UserError):
    """pcscd has no virtual readers that could be used."""

    exit_code = 38


def vpcd_ports(folder: Path = FOLDER) -> list[int]:
    """The ports of all slots, in the order of their entries; raises `NoSlotsError`."""
    ports: list[int] = []
    drivers: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        for entry in _entries(path):
            driver, device = entry.get("LIBPATH", ""), entry.get("DEVICENAME", _LISTENS)
            name, _, port = device.partition(":")
            if not Path(driver).name.startswith(_DRIVER) or name != _LISTENS:
                continue
            if driver in drivers:
                raise NoSlotsError(
                    f"{path} and {drivers[driver]} use the same file, {driver}: it has two slots and no more",
                    f"give each entry a copy of its own: cp {driver} {_copy(driver, len(drivers))}, as its LIBPATH",
                )
            drivers[driver] = path
            first = int(port, 0) if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", port) else _DEFAULT_PORT
            ports += range(first, first + _SLOTS)
    if not ports:
        raise NoSlotsError(
            f"pcscd has no virtual readers: nothing in {folder} is of vpcd", "apt install vsmartcard-vpcd"
        )
    return ports


def _copy(driver: str, number: int) -> str:
    path = Path(driver)
    return str(path.with_stem(f"{path.stem}{number}"))


def _entries(path: Path) -> Iterator[dict[str, str]]:
    """The entries of a file; one begins where a word comes again."""
    entry: dict[str, str] = {}
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        if found[1] in entry:
            yield entry
            entry = {}
        entry[found[1]] = found[2]
    yield entry
