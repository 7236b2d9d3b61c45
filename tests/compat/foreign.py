"""Programs of other Debian releases and processors, unpacked into a folder and run with their own libraries.

Packages come from the mirror that this machine's apt uses, and stay in ``.cache/foreign``. Nothing is installed: the
release's own dynamic loader (or qemu's user emulation, for another processor) runs the unpacked program.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.computer import REPOSITORY
from tests.lab.process import LabError

CACHE = REPOSITORY / ".cache" / "foreign"
_QEMU = {"armhf": "qemu-arm-static", "s390x": "qemu-s390x-static"}
_CLIENT = ("libpcsclite1", "pcsc-tools", "libgcc-s1", "libc6", "zlib1g")
_PYTHON_LIBRARIES = ("libexpat1", "libssl3", "libcrypt1", "libbz2-1.0", "liblzma5")


class NotAvailable(LabError):
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
SERVERS = tuple(release for release in CLIENTS if release.suite in ("bookworm", "trixie", "sid") and release.arch == "amd64")


def _mirror() -> str:
    """The address this machine gets Debian's own packages from."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], capture_output=True, text=True, check=True
    ).stdout
    for line in listed.splitlines():
        origin, label, address = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise NotAvailable("this machine's apt knows no Debian mirror: run apt-get update")


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
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def __call__(self, program: str, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run([program, *self._options, *words], capture_output=True, text=True, check=False, cwd=cwd)
        if done.returncode:
            raise NotAvailable(f"{self._release.name}: {program} {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def python(self) -> str:
        """The version of the release's Python."""
        if self._release.python:
            return self._release.python
        depends = self("apt-cache", "depends", "python3-minimal")
        return next(word for word in depends.split() if word.startswith("python3.")).removeprefix("python").removesuffix(
            "-minimal"
        )

    def known(self, *names: str) -> list[str]:
        """Those of the packages that the release has."""
        return [name for name in names if f"\n{name}\n" in "\n" + self("apt-cache", "pkgnames") + "\n"]


def unpack(release: Release, *more: str) -> Path:
    """Download and unpack a release's client parts, and ``more`` packages; does nothing when they are there.

    Returns:
        The folder that is its root.

    Raises:
        NotAvailable: the mirror has them not, or cannot be reached.
    """
    done = release.folder / f"unpacked{''.join('-' + name for name in more)}"
    if done.exists():
        return release.root
    apt = _Apt(release)
    apt("apt-get", "update")
    version = apt.python()
    python = [f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib", release.ffi]
    wanted = apt.known(*_CLIENT, *python, *_PYTHON_LIBRARIES, *more)
    missing = {*_CLIENT, *python, *more} - set(wanted)
    if missing:
        raise NotAvailable(f"{release.name} has no {', '.join(sorted(missing))}")
    apt("apt-get", "download", *wanted, cwd=release.folder / "debs")
    for package in sorted((release.folder / "debs").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, release.root], check=True)
    done.write_text("\n".join(path.name for path in (release.folder / "debs").glob("*.deb")))
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
    binary = next(path for path in (release.root / "usr/bin").glob("python3.*") if path.name[7:].replace(".", "").isdigit())
    environment = {"PYTHONHOME": str(release.root / "usr"), "PYTHONDONTWRITEBYTECODE": "1"}
    return command(release, f"usr/bin/{binary.name}", script, *words, environment=environment)
