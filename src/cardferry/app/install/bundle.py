"""What is sent: one archive with the packages, which is the same for the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cardferry
from cardferry.app.install.own_files import Package
from cardferry.app.install.there import Python


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive of a ``site-packages`` folder.

    Attributes:
        name: of the folder that it becomes: cardferry's version, and what is in it.
        tar: its bytes, not compressed yet.
    """

    name: str
    tar: bytes

    def compressed(self) -> bytes:
        """As it is sent."""
        return gzip.compress(self.tar, compresslevel=3, mtime=0)


def bundle(packages: Iterable[Package], python: Python) -> Bundle:
    """Make the archive for a Python; what was installed for another owner, or at another time, does not change it."""
    site = f"lib/python{python.version[0]}.{python.version[1]}/site-packages"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for package in sorted(packages, key=lambda one: one.name):
            contents = {where: path.read_bytes() for where, path in package.files.items()}
            contents |= {where: text.encode() for where, text in package.extra.items()}
            for where, data in sorted(contents.items()):
                member = tarfile.TarInfo(f"{site}/{where}")
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(python.path.encode() + python.abi.encode() + out.getbuffer()).hexdigest()
    return Bundle(f"{cardferry.__version__}-{digest[:12]}", out.getvalue())


def trial(packages: Sequence[Package]) -> str:
    """A program for the Python over there that imports what is compiled, and the commands."""
    compiled = sorted(
        {
            where.split(".", 1)[0].replace("/", ".")
            for package in packages
            for where in package.files
            if where.endswith(".so") and "test" not in where
        }
    )
    return "; ".join(f"import {module}" for module in ["cardferry.cli.main", "cardferry.cli.host", *compiled])
