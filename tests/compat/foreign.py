"""Programs of other Debian releases and processors, unpacked into a folder and run with their own libraries.

Packages come from the mirror that this machine's apt uses, and stay in ``.cache/foreign``. Nothing is installed: the
release's own dynamic loader (or qemu's user emulation, for another processor) runs the unpacked program.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cardferry.system.locks import lock
from tests.lab.computer import REPOSITORY
from tests.lab.process import LabError

CACHE = REPOSITORY / ".cache" / "foreign"
_QEMU = {"armhf": "qemu-arm-static", "s390x": "qemu-s390x-static"}
_CLIENT = ("libpcsclite1", "pcsc-tools", "libgcc-s1", "libc6", "zlib1g")
_PYTHON_LIBRARIES = ("libexpat1", "libssl3", "libcrypt1", "libbz2-1.0", "liblzma5")
_SERVER = ("pcscd", "vsmartcard-vpcd", "libc6", "libgcc-s1", "libudev1", "libsystemd0", "libqrencode4")
#: What pcscd and its libraries need beside these, as far as a release has it.
_SERVER_LIBRARIES = (
    *("libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1"),
    *("libpolkit-gobject-1-0", "libglib2.0-0t64", "libpcre2-8-0", "libffi8", "zlib1g", "libatomic1"),
    *("libmount1", "libblkid1", "libselinux1"),
)


class NotAvailableError(LabError):
    """The mirror has no such package, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release on a processor.

    Attributes:
        suite: such as ``bookworm``.
        arch: Debian's name of the processor.
        python: version of its Python.
        ffi: package of the library that ctypes needs.
    """

    suite: str
    arch: str
    python: str
    ffi: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.suite} {self.arch}"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return CACHE / f"{self.suite}-{self.arch}"

    @property
    def root(self) -> Path:
        """The unpacked files, as if it were the root folder."""
        return self.folder / "root"


def _python(suite: str, arch: str) -> Release:
    version, ffi = {
        "bullseye": ("3.9", "libffi7"),
        "bookworm": ("3.11", "libffi8"),
        "trixie": ("3.13", "libffi8"),
        "sid": ("", "libffi8"),
    }[suite]
    return Release(suite, arch, version, ffi)


CLIENTS = (
    _python("bullseye", "amd64"),
    _python("bookworm", "amd64"),
    _python("trixie", "amd64"),
    _python("sid", "amd64"),
    _python("bookworm", "armhf"),
    _python("bookworm", "s390x"),
)
SERVERS = tuple(one for one in CLIENTS if one.suite in ("bookworm", "trixie", "sid") and one.arch == "amd64")


def _mirror() -> str:
    """The address this machine gets Debian's own packages from."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        origin, label, address = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise NotAvailableError("this machine's apt knows no Debian mirror: run apt-get update")


class _Apt:
    """A private apt for one release."""

    def __init__(self, release: Release) -> None:
        self._release = release
        folder = release.folder
        for part in ("lists/partial", "archives/partial", "debs", "root"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (folder / "sources.list").write_text(
            f"deb [arch={release.arch} signed-by={keys}] {_mirror()} {release.suite} main\n"
        )
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "APT::Architecture": release.arch,
            "APT::Architectures::": release.arch,
            "APT::Sandbox::User": "root",
            # a mirror may be some days behind: the signature still counts, its age does not matter here
            "Acquire::Check-Valid-Until": "false",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def __call__(self, program: str, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run([program, *self._options, *words], capture_output=True, text=True, check=False, cwd=cwd)
        if done.returncode:
            raise NotAvailableError(f"{self._release.name}: {program} {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def python(self) -> str:
        """The version of the release's Python."""
        if self._release.python:
            return self._release.python
        depends = self("apt-cache", "depends", "python3-minimal")
        package = next(word for word in depends.split() if word.startswith("python3."))
        return package.removeprefix("python").removesuffix("-minimal")

    def all_of(self, *names: str) -> list[str]:
        """The packages, if the release has all of them; `NotAvailableError` otherwise."""
        missing = set(names) - set(self.known(*names))
        if missing:
            raise NotAvailableError(f"{self._release.name} has no {', '.join(sorted(missing))}")
        return list(names)

    def known(self, *names: str) -> list[str]:
        """Those of the packages that the release has."""
        there = set(self("apt-cache", "pkgnames").split())
        return [name for name in names if name in there]


def unpack_client(release: Release) -> Path:
    """Download and unpack a release's libpcsclite, pcsc-tools and Python; see `_unpack`."""

    def wanted(apt: _Apt) -> list[str]:
        version = apt.python()
        python = (f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib", release.ffi)
        return apt.all_of(*_CLIENT, *python) + apt.known(*_PYTHON_LIBRARIES)

    return _unpack(release, "client", wanted)


def unpack_server(release: Release) -> Path:
    """Download and unpack a release's pcscd with vpcd's driver and all libraries; see `_unpack`."""
    return _unpack(release, "server", lambda apt: apt.all_of(*_SERVER) + apt.known(*_SERVER_LIBRARIES))


def unpack_program(package: str, suite: str) -> Path:
    """Download and unpack a program of a release for this machine, whose own libraries are enough for it.

    For what must not be installed: a package may bring services that start at every login. See `_unpack`.
    """
    arch = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    return _unpack(_python(suite, arch), package, lambda apt: apt.all_of(package))


def _unpack(release: Release, part: str, wanted: Callable[[_Apt], list[str]]) -> Path:
    """Download and unpack packages; does nothing when that was done before.

    Returns:
        The folder that is the release's root.

    Raises:
        NotAvailableError: the mirror has them not, or cannot be reached.
    """
    release.folder.mkdir(parents=True, exist_ok=True)
    with (release.folder / "lock").open("w") as handle:
        lock(handle.fileno())  # the tests may run in several processes
        return _unpack_alone(release, part, wanted)


def _unpack_alone(release: Release, part: str, wanted: Callable[[_Apt], list[str]]) -> Path:
    done = release.folder / f"unpacked.{part}"
    if done.exists():
        return release.root
    apt = _Apt(release)
    apt("apt-get", "update")
    names = wanted(apt)
    debs = release.folder / "debs"
    apt("apt-get", "download", *names, cwd=debs)
    for name in names:
        newest = max(debs.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        subprocess.run(["dpkg", "-x", newest, release.root], check=True)
    done.write_text("\n".join(names) + "\n")
    return release.root


def version(release: Release, package: str) -> str:
    """The upstream version of a package as it was unpacked, such as ``2.3.3``."""
    name = next((release.folder / "debs").glob(f"{package}_*")).name
    return name.split("_")[1].split("-")[0]


def command(release: Release, program: str, *words: str | Path, environment: dict[str, str] | None = None) -> list[str]:
    """The command line that runs an unpacked program with its release's own libraries.

    Args:
        program: path within the release's root.
        words: its arguments.
        environment: variables it gets beside those of the caller.
    """
    root = release.root
    folders = [path for path in (*root.glob("lib/*-linux-gnu*"), *root.glob("usr/lib/*-linux-gnu*")) if path.is_dir()]
    libraries = ":".join(map(str, folders))
    binary = root / program
    pairs = {**(environment or {})}
    if release.arch in _QEMU:
        pairs["LD_LIBRARY_PATH"] = libraries
        settings = [word for name, value in pairs.items() for word in ("-E", f"{name}={value}")]
        return [_QEMU[release.arch], "-L", str(root), *settings, str(binary), *map(str, words)]
    loader = next(path for folder in folders for path in sorted(folder.glob("ld-*.so*")) if not path.is_symlink())
    settings = [f"{name}={value}" for name, value in pairs.items()]
    return ["env", *settings, str(loader), "--library-path", libraries, str(binary), *map(str, words)]


def python(release: Release, script: Path, *words: str | Path) -> list[str]:
    """The command line that runs a script with the release's Python and libraries."""
    binary = next((release.root / "usr/bin").glob("python3.*[0-9]"))
    environment = {"PYTHONHOME": str(release.root / "usr"), "PYTHONDONTWRITEBYTECODE": "1"}
    return command(release, f"usr/bin/{binary.name}", script, *words, environment=environment)
