"""``docs/compatibility.md``: written from what the tests saw, and compared with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.compat import foreign
from tests.compat.deployments import Deployment, Form
from tests.compat.foreign import CLIENTS, SERVERS, Release
from tests.lab.computer import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "compatibility.md"
WORKS = "works"
#: By release of the programs and deployment: `WORKS`, or what went wrong.
Cells = Mapping[tuple[Release, Deployment], str]

FERRIED = (
    *(Deployment(form, server) for form in (Form.ATTACH, Form.SHARE, Form.LINK) for server in SERVERS),
    Deployment(Form.BUILT_IN, None),
)
BY_HAND = tuple(Deployment(form, server) for form in (Form.LOCAL, Form.REMOTE) for server in SERVERS)

#: The protocol levels of pcsc-lite: the first version that speaks each.
_LEVELS = (((2, 5), "4:6"), ((2, 3), "4:5"), ((1, 8, 24), "4:4"))
_BITS = {"amd64": 64, "armhf": 32, "s390x": 64}
_PATTERN = re.compile(r"^\| (?P<release>\w+ \w+) \|(?P<cells>.*)\|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Section:
    """A table with its heading."""

    heading: str
    words: str
    deployments: tuple[Deployment, ...]


_WITH = _Section("## With cardferry", "All programs at the same time, on one card.", FERRIED)
_WITHOUT = _Section(
    "## The same with ssh alone",
    "`ssh -N -L` and `ssh -N -R` between the program and pcscd's socket. One program after the other: several at once "
    "are sometimes refused, whatever their versions, because pcscd has no room for several new connections.",
    BY_HAND,
)

_PREAMBLE = """\
# Which programs work with which servers

Written by `pytest tests/compat --write-table`, which ran every cell; without the option the same tests fail when a cell
is another one than here. Do not edit.

The programs are unmodified packages of Debian releases, run with their own libraries (`armhf` and `s390x` in qemu's
user emulation). *works* means that both of these went through, as they would on the host itself:

- a program that uses all of PC/SC: establish, list the readers, wait in `SCardGetStatusChange` and see a card inserted,
  its ATR, connect, status, a transaction with APDUs of 5, 255 and 4,000 bytes to and from the card, control code,
  attributes, disconnect, `SCardCancel` from another thread, release;
- `pcsc_scan`: it lists the reader and shows the card coming and going.
"""

_NO_PACKAGE = """\
## What no package supplies

- **4:2 and 4:3**, pcsc-lite 1.6.5 to 1.8.23 (before 2018): held by golden vectors laid out from the C headers
  (`tests/wire/pcsclite/`) and by conversations with the real socket (`tests/frontends/test_old_clients.py`). In 4:2 a
  reader's name has 100 or 128 bytes; `--old-names` chooses 100. A program that connects shows which it is, and is
  answered in its own size from then on.
- **Arrays of another size under the same number.** A libpcsclite that was built for 48 readers (Fedora had such)
  cannot be told from one built for 16, up to 4:5: `--reader-slots 48` serves it. From 4:6 on programs ask for the size.

## More readers than a program can see

Up to pcsc-lite 2.4 a library has room for 16 readers. Programs see the 16 that came first, and keep seeing them as long
as they are there. `--reader GLOB` says which they shall see instead; given several times, the order is that of the
options, and `--reader '*'` at the end stands for the rest (`tests/compat/test_many_readers.py`: 20 readers at a real
pcscd).

A name that is longer than the protocol allows (127 bytes, or 99) is shortened in its middle, where eight digits of a
digest keep it different from every other one; the numbers at its end stay (`tests/frontends/test_sizes.py`).

## Numbers inside payloads

A program of the other byte order finds the numbers in attributes (such as the reader's version) and in the structures
for PIN pads in its own order: `src/cardferry/frontends/pcsclite/payload.py` says which.
"""


#: Where programs run that no socket reaches, how the card gets there, what works, and the tests that compare this row
#: with what they have seen (`seen_without_socket`).
_WITHOUT_SOCKET = {
    "test_native_readers": ("bookworm's pcscd 1.9.9", "vpcd 3.3", "works", "works", "works", "works"),
    "test_virtual_machine": (
        "a virtual machine's pcscd 1.9.9, libccid 1.5.2, Linux 6.1",
        "QEMU 7.2, `ccid-card-passthru`",
        "works",
        "works",
        "works",
        "6700",
    ),
}
#: What is done there.
ATR, SIGNATURE, INSERTION, EXTENDED = "`opensc-tool -a`", "PIV signature", "card out and in", "extended commands"


def render(cells: Cells) -> str:
    """The whole document."""
    return "\n".join(
        (
            _PREAMBLE,
            _versions(),
            _table(_WITH, cells),
            _table(_WITHOUT, cells),
            _without_socket(),
            _NO_PACKAGE,
        )
    )


def seen_before() -> dict[tuple[Release, Deployment], str]:
    """The cells of the document as it is in the repository."""
    if not DOCUMENT.exists():
        return {}
    text = DOCUMENT.read_text()
    found = {}
    for section in (_WITH, _WITHOUT):
        for row in _PATTERN.finditer(text.partition(section.heading)[2].partition("\n## ")[0]):
            release = next(one for one in CLIENTS if one.name == row["release"])
            cells = [cell.strip().replace("`", "") for cell in row["cells"].split("|")]
            found.update({(release, where): cell for where, cell in zip(section.deployments, cells, strict=True)})
    return found


def comparable(document: str) -> str:
    """The document without what may change every day: the version that Debian's unstable release has."""
    return re.sub(r"^\| sid.*$", lambda row: re.sub(r"\d+\.\d+\.\d+", "N", row[0]), document, flags=re.MULTILINE)


def _versions() -> str:
    rows = []
    for release in CLIENTS:
        library = foreign.version(release, "libpcsclite1")
        order = "big" if release.arch == "s390x" else "little"
        tools = foreign.version(release, "pcsc-tools")
        server = foreign.version(release, "pcscd") if release in SERVERS else ""
        rows.append(
            (release.name, library, _level(library), f"{_BITS[release.arch]} bits", f"{order}-endian", tools, server)
        )
    header = ("release", "libpcsclite", "protocol", "word", "byte order", "pcsc_scan", "pcscd")
    return "## What was run\n\n" + _markdown(header, rows)


def _level(version: str) -> str:
    numbers = tuple(int(number) for number in version.split("."))
    return next(level for first, level in _LEVELS if numbers >= first)


def _table(section: _Section, cells: Cells) -> str:
    header = ["programs", *(_column(deployment) for deployment in section.deployments)]
    rows = [
        (release.name, *(_cell(cells.get((release, where), "not run")) for where in section.deployments))
        for release in CLIENTS
    ]
    works = [cells.get((release, where)) == WORKS for release in CLIENTS for where in section.deployments]
    summary = f"{section.words} {works.count(True)} of {len(works)} work."
    return f"{section.heading}\n\n{summary}\n\n" + _markdown(header, rows)


def _without_socket() -> str:
    header = ("programs at", "how the card gets there", ATR, SIGNATURE, INSERTION, EXTENDED, "tests")
    rows = [(*row, f"`tests/real/{test}.py`") for test, row in _WITHOUT_SOCKET.items()]
    words = "`cardferry attach --native` and `--qemu`: programs of bookworm at a resource manager that is not ours."
    return f"## Where no socket gets in\n\n{words}\n\n" + _markdown(header, rows)


def seen_without_socket(test: str, where: str, how: str, cells: Mapping[str, str]) -> None:
    """See that the row of a test module is what it has seen.

    Args:
        where, how: with the versions that were there.
        cells: what came of what was done, of `ATR` and so on; those that ran.
    """
    known = _WITHOUT_SOCKET[test]
    columns = dict(zip((ATR, SIGNATURE, INSERTION, EXTENDED), known[2:], strict=True))
    assert (where, how) == known[:2], "change it in tests/compat/report.py, and write the document anew"
    assert dict(cells) == {column: columns[column] for column in cells}
    assert f"| {' | '.join(known)} | `tests/real/{test}.py` |" in DOCUMENT.read_text(), "run it with --write-table"


def installed_version(package: str) -> str:
    """The upstream version of a Debian package that is installed here, without what follows the third number."""
    words = ["dpkg-query", "--show", "--showformat=${Version}", package]
    version = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return re.split(r"[-+~]", version.partition(":")[2] or version)[0]


def _column(deployment: Deployment) -> str:
    if deployment.server is None:
        return deployment.form.value
    command, _, more = deployment.form.value.partition(", ")
    return f"`{command}`{more and f' with cardferry at {more}'}, pcscd of {deployment.server.suite}"


def _cell(text: str) -> str:
    return re.sub(r"(SCard\w+|SCARD_\w+|pcsc_scan)", r"`\1`", text)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
