"""What this cardferry runs from: the files of the packages that it needs, as they are installed here.

They are taken from where they are, whatever has put them there: uv, pipx, the Debian package; and cardferry's own from
its package's folder, which an editable installation has in a checkout. What a distribution consists of is in its
``RECORD``, what it is made for in its ``WHEEL``
(https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

import cardferry
from cardferry.app.install.there import SetupError

_NAME: Final = "cardferry"
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)[^;]*(?:;(.*))?")
_TAG: Final = re.compile(r"^Tag: \S+-\S+-(\S+)$", re.MULTILINE)
_GLIBC: Final = re.compile(r"manylinux_2_(\d+)_")
#: The older names of ``manylinux`` tags (PEP 600).
_OLD_TAGS: Final = {"manylinux1_": 5, "manylinux2010_": 12, "manylinux2014_": 17}
#: What nothing needs that runs.
_SOURCES: Final = frozenset({".pyc", ".pyi", ".c", ".h", ".pyx", ".pxd"})


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution.

    Attributes:
        name: as its metadata has it.
        version: likewise.
        files: name in ``site-packages`` -> where it is here.
        pure: nothing in it is compiled, so it runs anywhere.
        glibc: the minor version of GNU libc 2 that its compiled modules need; 0 when they do not say.
        extra: name in ``site-packages`` -> text, for files that are nowhere here.
    """

    name: str
    version: str
    files: dict[str, Path]
    pure: bool
    glibc: int = 0
    extra: dict[str, str] = field(default_factory=dict)


def own_abi() -> str:
    """What compiled modules are made for here."""
    return str(sysconfig.get_config_var("SOABI"))


def own_packages() -> list[Package]:
    """cardferry, and all that it needs, without extras.

    Raises:
        SetupError: it cannot be told which files these are.
    """
    found = {_NAME: _itself()}
    wanted = list(_needs(_NAME))
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # its marker says that it is not needed here, or it is an extra's
        found[key] = _package(distribution)
        wanted += _needs(name)
    return list(found.values())


def _needs(name: str) -> Iterator[str]:
    """The names in a distribution's requirements, but for those of its extras."""
    for line in metadata.requires(name) or ():
        match = _REQUIREMENT.match(line)
        if match and "extra" not in (match[2] or ""):
            yield match[1]


def _itself() -> Package:
    try:
        text = metadata.distribution(_NAME).read_text("METADATA") or ""
    except metadata.PackageNotFoundError:
        raise _unknown(_NAME) from None
    folder = Path(cardferry.__file__).parent
    files = {f"{_NAME}/{path.relative_to(folder)}": path for path in folder.rglob("*") if _wanted(path)}
    return Package(
        _NAME,
        cardferry.__version__,
        files,
        pure=True,
        extra={f"{_NAME}-{cardferry.__version__}.dist-info/METADATA": text},
    )


def _package(distribution: metadata.Distribution) -> Package:
    name = distribution.name
    listed = distribution.files
    if not listed:
        raise _unknown(name)
    inside = [one for one in listed if ".." not in one.parts and not PurePosixPath(one).is_absolute()]
    files = {str(one): Path(str(distribution.locate_file(one))) for one in inside}
    wheel = distribution.read_text("WHEEL") or ""
    return Package(
        name,
        distribution.version,
        {where: path for where, path in files.items() if _wanted(path)},
        not any(".so" in path.suffixes for path in files.values()),
        _needed_glibc(wheel),
    )


def _wanted(path: Path) -> bool:
    return path.suffix not in _SOURCES and path.is_file()


def _needed_glibc(wheel: str) -> int:
    """A wheel that says so in several tags fits where one of them does."""
    tags = _TAG.findall(wheel)
    found = [int(minor) for tag in tags for minor in _GLIBC.findall(tag)]
    found += [minor for tag in tags for old, minor in _OLD_TAGS.items() if old in tag]
    return min(found, default=0)


def _unknown(name: str) -> SetupError:
    return SetupError(
        f"it is not known which files here {name} consists of",
        "run setup from a cardferry that was installed with uv tool install or pipx install",
    )
