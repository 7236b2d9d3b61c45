"""Wheels for another Python or processor, fetched by the uv or pip that is here: from their cache, or an index.

Only packages with compiled modules are fetched, in the versions that run here; what is pure Python is taken from here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cardferry.app.install.own_files import Package
from cardferry.app.install.there import Python, SetupError
from cardferry.transports.ssh.command import run

#: Minor versions of GNU libc 2 that uv has a name for (``uv pip install --python-platform``).
_KNOWN_TO_UV: Final = (17, 28, *range(31, 41))
_OLDEST_GLIBC: Final = 17


async def fetch(packages: Sequence[Package], python: Python, folder: Path) -> list[Package]:
    """The same packages for another Python.

    Args:
        folder: an empty one, for what is fetched.

    Raises:
        SetupError: some are not to be had; they are all named.
    """
    tools = list(_tools(python))
    fetched, missing, why = [], [], "there is neither uv nor pip here"
    for package in packages:
        wanted = f"{package.name}=={package.version}"
        place = folder / package.name
        for tool in tools:
            status, _, said = await run([*tool, "--target", str(place), wanted])
            if status == 0:
                files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
                fetched.append(replace(package, files=await asyncio.to_thread(dict, files)))
                break
            why = (said.strip() or f"exit status {status}").splitlines()[-1].strip()
        else:
            missing.append(f"{package.name} {package.version}")
    if missing:
        raise SetupError(
            f"not to be had for {python} on {python.machine}: {', '.join(missing)} ({why})",
            "run setup where uv or pip reaches an index; or install cardferry over there: uv tool install",
        )
    return fetched


def _tools(python: Python) -> Iterator[list[str]]:
    """What can fetch: uv from its cache, uv, pip."""
    version = ".".join(map(str, python.version[:2]))
    both = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", version]
    if uv := shutil.which("uv"):
        words = [uv, "pip", "install", *both, "--python", sys.executable, "--link-mode", "copy"]
        words += ["--python-platform", _uv_platform(python)]
        yield [*words, "--offline"]
        yield words
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or ""]
    if pip[0]:
        platforms = [word for name in _pip_platforms(python) for word in ("--platform", name)]
        yield [*pip, "install", *both, *platforms, "--disable-pip-version-check", "--retries", "0"]


def _uv_platform(python: Python) -> str:
    if python.musl:
        return f"{python.machine}-unknown-linux-musl"
    glibc = max((one for one in _KNOWN_TO_UV if one <= python.glibc), default=_OLDEST_GLIBC)
    return f"{python.machine}-manylinux_2_{glibc}"


def _pip_platforms(python: Python) -> list[str]:
    """Each one that fits: pip takes none that is older by itself."""
    if python.musl:
        return [f"musllinux_1_{minor}_{python.machine}" for minor in (2, 1)]
    modern = [f"manylinux_2_{minor}_{python.machine}" for minor in range(python.glibc, _OLDEST_GLIBC - 1, -1)]
    return [*modern, f"manylinux2014_{python.machine}"]
