"""A Flatpak application that lists readers, in a runtime of this machine's own files; nothing is fetched.

Its build has two folders, as flatpak-build-export(1) wants them: what becomes ``/usr`` in the sandbox, and what becomes
``/app``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.lab.process import run

#: What it is called, and the repository's name.
APPLICATION, REMOTE = "org.lab.Cards", "lab"
_RUNTIME: Final = "org.lab.Platform"
_PROGRAM: Final = ("opensc-tool", "--list-readers")


def build(folder: Path) -> Path:
    """Make both, in a repository; returns where that is. The application has no permissions."""
    architecture = run(["flatpak", "--default-arch"]).check().out.strip()
    runtime, application, repository = folder / "runtime", folder / "application", folder / "repository"
    programs = [Path("/usr/bin") / _PROGRAM[0], Path("/bin/sh")]
    (loaded,) = Path("/usr/lib").glob("*/libpcsclite.so.1")  # which OpenSC loads by itself
    for file in [*programs, loaded, *_libraries([*programs, loaded])]:
        inside = file if file.is_relative_to("/usr") else Path("/usr") / file.relative_to("/")
        _copy(file, runtime / inside.relative_to("/"))
    (runtime / "files").mkdir()  # it is looked for there, whatever is built
    kind = f"{_RUNTIME}/{architecture}/1"
    (runtime / "metadata").write_text(f"[Runtime]\nname={_RUNTIME}\nruntime={kind}\nsdk={kind}\n")
    program = application / "files" / "bin" / "cards"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nexec {' '.join(_PROGRAM)}\n")
    program.chmod(0o755)
    (application / "export").mkdir()
    (application / "metadata").write_text(
        f"[Application]\nname={APPLICATION}\nruntime={kind}\nsdk={kind}\ncommand=cards\n"
    )
    run(["flatpak", "build-export", "--runtime", repository, runtime, "1"]).check()
    run(["flatpak", "build-export", repository, application, "stable"]).check()
    return repository


def _libraries(programs: Sequence[Path]) -> list[Path]:
    """What they are linked with, ldd(1) says."""
    words = run(["ldd", *programs]).check().out.split()
    return sorted({Path(word) for word in words if word.startswith("/") and not word.endswith(":")})


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(file.read_bytes())
    to.chmod(0o755)
