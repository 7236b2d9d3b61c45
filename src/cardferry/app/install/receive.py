"""Receives cardferry: run by the Python of another computer, which has nothing of it yet.

The first line of the standard input is JSON (`Request` in ``bring.py``); behind it comes a ``tar.gz`` of so many bytes.
It is unpacked beside what was there, tried out, and only then put into its place, by renaming: who interrupts that
leaves what was there before. Errors are cardferry's own two lines.
"""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Bytes that the other end sends before it waits for a word.
_PIECE = 1 << 18
_PART = ".part-"
#: Starts Python beside it, wherever that is: the path of an interpreter in ``#!`` may be too long, or have blanks.
_SCRIPT = """\
#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
from cardferry.__main__ import main

main()
"""


class _Pieces:
    """The archive, as `tarfile` reads a stream: whoever sends it hears of each piece that has come."""

    def __init__(self, size: int, mark: str) -> None:
        self.left = size
        self._mark = mark
        self._piece = 0

    def read(self, most: int) -> bytes:
        data = sys.stdin.buffer.read(min(most, self.left, _PIECE - self._piece))
        if not data and self.left:
            raise EOFError("the connection has ended before all was here")
        self.left -= len(data)
        self._piece = (self._piece + len(data)) % _PIECE
        if data and not (self._piece and self.left):
            print(self._mark, "more", flush=True)
        return data


def receive(request: Any) -> None:
    """Put it in its place."""
    os.umask(0o022)
    home = Path.home()
    base, programs = home / ".local" / "share" / "cardferry", home / ".local" / "bin"
    made = [one for folder in (base, programs) for one in (folder, *folder.parents) if not one.exists()]
    part = base / f"{_PART}{os.getpid()}"
    try:
        for folder in (base, programs):
            folder.mkdir(parents=True, exist_ok=True)
        fcntl.flock(os.open(base, os.O_RDONLY), fcntl.LOCK_EX)  # one at a time; who was killed holds it no longer
        with (base / "made").open("a") as note:
            note.writelines(f"{one}\n" for one in made if one != base)
        for left in base.glob(_PART + "*"):
            shutil.rmtree(left)
        if "command" in request:
            program = Path(request["command"]).expanduser()
            _try([str(program), "--version"])
        else:
            _unpack(request, part, base / request["name"])
            program = Path(request["name"]) / "bin" / "cardferry"
        _point(base / "current", str(program))
        _point(programs / "cardferry", "../share/cardferry/current")
    except BaseException:
        shutil.rmtree(base if base in made else part, ignore_errors=True)
        for folder in sorted(made, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise
    for other in base.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name != request.get("name") and not _used(other):
            shutil.rmtree(other, ignore_errors=True)
    print(request["mark"], "done", flush=True)


def _unpack(request: Any, part: Path, place: Path) -> None:
    part.mkdir()
    stream = _Pieces(request["size"], request["mark"])
    with tarfile.open(fileobj=stream, mode="r|gz") as archive:  # type: ignore[call-overload]
        for member in archive:
            archive.extract(member, part, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    while stream.read(_PIECE):
        pass
    base_python = Path(getattr(sys, "_base_executable", sys.executable))
    versioned = base_python.with_name(f"python{sys.version_info[0]}.{sys.version_info[1]}")
    (part / "bin").mkdir()
    (part / "bin" / "python").symlink_to(versioned if versioned.exists() else base_python)
    (part / "pyvenv.cfg").write_text(f"home = {base_python.parent}\ninclude-system-site-packages = false\n")
    script = part / "bin" / "cardferry"
    script.write_text(_SCRIPT.format(python=shlex.quote(str(place / "bin" / "python"))))
    script.chmod(0o755)
    _try([str(part / "bin" / "python"), "-I", "-c", request["trial"]])
    if place.exists():  # it does not work, or it would not have been sent
        place.rename(place.with_name(f"{_PART}old"))
        shutil.rmtree(place.with_name(f"{_PART}old"))
    part.rename(place)


def _try(command: "list[str]") -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        why = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise RuntimeError(f"it does not start: {why}")


def _point(link: Path, target: str) -> None:
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _used(folder: Path) -> bool:
    """Whether a process runs from there: an agent goes on until nobody uses it."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(os.fsencode(folder) + b"/"):
                return True
    return False


if __name__ == "__main__":
    try:
        receive(json.loads(sys.stdin.buffer.readline()))
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        where = getattr(error, "filename", None)
        says = getattr(error, "strerror", None) or str(error)
        sys.exit(f"error: {where}: {says}" if where else f"error: {says}")
