"""What is built carries all that belongs to it, and is installed as README says."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cardferry import __version__
from cardferry.cli.main import COMMANDS
from tests.lab.computer import REPOSITORY

UV = shutil.which("uv") or str(REPOSITORY / ".cache" / "uv-tool" / "bin" / "uv")
SHARED = {
    *(f"share/man/man1/cardferry-{name}.1" for name in COMMANDS),
    "share/man/man1/cardferry.1",
    "share/bash-completion/completions/cardferry",
    "share/zsh/site-functions/_cardferry",
    "share/fish/vendor_completions.d/cardferry.fish",
    "share/systemd/user/cardferry.service",
}


def uv(*words: str | Path, folder: Path) -> str:
    """Run uv with everything that it installs in a folder of ours."""
    private = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin"), "UV_SYSTEM_CERTS": "true"}
    done = subprocess.run([UV, *words], env={**os.environ, **private}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--out-dir", folder / "dist", REPOSITORY, folder=folder)
    return folder / "dist"


@pytest.mark.real
def test_the_sdist_carries_what_packages_are_made_of(dist: Path) -> None:
    with tarfile.open(dist / f"cardferry-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"contrib/man/cardferry.1", "contrib/completions/_cardferry", "contrib/systemd/cardferry.service"} <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "docs/installing.md", "Makefile", "scripts/setup"} <= names


@pytest.mark.real
def test_the_wheel_is_installed_as_a_tool(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    uv("tool", "install", "--quiet", "--python", sys.executable, wheel, folder=tmp_path)
    installed = tmp_path / "tools" / "cardferry"
    assert {str(path.relative_to(installed)) for path in installed.glob("share/**/*") if path.is_file()} >= SHARED
    command = tmp_path / "bin" / "cardferry"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin"})
    assert done.stdout == f"cardferry {__version__}\n"
    listed = subprocess.run([command, "readers"], capture_output=True, text=True, check=False, env={"HOME": "/"})
    assert "Traceback" not in listed.stderr


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit) as exited:
        runpy.run_module("cardferry", run_name="__main__")
    assert str(exited.value.code).splitlines() == [
        "error: this Python is too old: it is 3.9",
        "hint: cardferry needs Python 3.11 or newer; uv tool install cardferry brings one",
    ]


def test_setting_up_uses_the_certificates_of_the_system(tmp_path: Path) -> None:
    """A proxy that opens what is encrypted has put its own there."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    fake = tmp_path / "uv"
    fake.write_text('#!/bin/sh\necho "$UV_SYSTEM_CERTS $PIP_CERT $*" >> "${0%/*}/said"\n')
    fake.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_CERT": "/etc/ssl/own.pem"}
    subprocess.run([tmp_path / "scripts" / "setup", "program"], env=environ, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert all(line.startswith("true /etc/ssl/own.pem ") for line in said)
    assert "sync" in said[-1]
