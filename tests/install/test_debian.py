"""The Debian package, in bare roots of two releases: installed, upgraded from the build before, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry import __version__
from cardferry.cli.main import COMMANDS
from tests.install.booted_root import BootedRoot
from tests.lab.computer import PCSC_CLIENT, REPOSITORY
from tests.lab.namespaces import is_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: Release -> its Python.
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
#: What dpkg and its log remember of every package, and what a shell leaves.
_KEPT = ("var/lib/dpkg", "var/log", "var/cache")


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package(python: str, *version: str) -> Path:
    """Build it; one whose version is older stands for the build before."""
    return REPOSITORY / run(REPOSITORY / "scripts" / "debian-package", python, *version).strip().splitlines()[-1]


class Root:
    """A bare root of a release, with its Python and no network."""

    def __init__(self, release: str, folder: Path, *more: str) -> None:
        self.folder = folder
        include = f"--include={','.join(('python3', *more))}"
        run("mmdebstrap", "--quiet", "--variant=apt", include, "--format=directory", release, folder)

    def run(self, *words: str) -> str:
        return run("unshare", "--net", "chroot", self.folder, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *words)

    def dpkg(self, *words: str) -> str:
        return self.run("dpkg", *words)

    def install(self, deb: Path) -> None:
        shutil.copy(deb, self.folder / "tmp" / "x.deb")
        self.dpkg("--install", "/tmp/x.deb")
        (self.folder / "tmp" / "x.deb").unlink()

    def files(self) -> set[str]:
        found = {
            str(Path(at, name).relative_to(self.folder)) for at, _, names in os.walk(self.folder) for name in names
        }
        return {path for path in found if not path.startswith(_KEPT)}

    def folders(self) -> set[str]:
        return {str(Path(at).relative_to(self.folder)) for at, _, _ in os.walk(self.folder)}


@pytest.fixture(params=RELEASES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Root, str]]:
    if not is_root() or shutil.which("mmdebstrap") is None:
        pytest.skip("not run, missing: root, or mmdebstrap")
    release: str = request.param
    folder = tmp_path / "root"
    yield Root(release, folder), RELEASES[release]
    shutil.rmtree(folder)


def test_it_installs_upgrades_and_purges(root: tuple[Root, str]) -> None:
    bare, python = root
    before, folders = bare.files(), bare.folders()
    bare.install(package(python, "0.0.1"))
    stale = bare.folder / f"usr/lib/cardferry/lib/python{python}/site-packages/cardferry/__pycache__"
    assert stale.is_dir(), "it was compiled, so that each start is quick"
    bare.install(package(python))
    assert bare.run("cardferry", "--version") == f"cardferry {__version__}\n"
    assert bare.run("env", "HOME=/root", "cardferry", "status") == "nothing is attached or shared\n"
    assert "uvloop" in bare.run(
        "/usr/lib/cardferry/bin/python", "-c", "import cryptography, msgspec, uvloop; print(uvloop)"
    )
    for path in (
        *(f"usr/share/man/man1/cardferry-{name}.1.gz" for name in COMMANDS),
        "usr/share/bash-completion/completions/cardferry",
        "usr/share/zsh/vendor-completions/_cardferry",
        "usr/share/fish/vendor_completions.d/cardferry.fish",
        "usr/lib/systemd/user/cardferry.service",
    ):
        assert (bare.folder / path).is_file(), path
    bare.dpkg("--purge", "cardferry")
    shutil.rmtree(bare.folder / "tmp" / "cardferry-0", ignore_errors=True)
    assert bare.files() - before == set()
    assert bare.folders() - folders == set()
    assert "cardferry" not in bare.dpkg("--get-selections")


@pytest.fixture
def booting(tmp_path: Path) -> Iterator[Root]:
    """A bookworm with a systemd, and a pcscd with virtual readers."""
    if not is_root() or shutil.which("mmdebstrap") is None:
        pytest.skip("not run, missing: root, or mmdebstrap")
    folder = tmp_path / "root"
    yield Root("bookworm", folder, "systemd-sysv", "dbus", "pcscd", "vsmartcard-vpcd")
    shutil.rmtree(folder)


def test_the_service_for_every_program_lives_through_an_upgrade_and_goes_with_the_package(booting: Root) -> None:
    """With its systemd at work: pcscd is where it was, and programs find their readers all the time."""
    shutil.copy(PCSC_CLIENT, booting.folder / "usr/bin/pcsc_client.py")
    booting.install(package(RELEASES["bookworm"], "0.0.1"))
    newer = package(RELEASES["bookworm"])
    with BootedRoot(booting.folder) as computer:

        def readers() -> str:
            return computer.run("python3", "/usr/bin/pcsc_client.py", "list").out

        def process() -> str:
            return computer.run("systemctl", "show", "--property=MainPID", "--value", "cardferry-system").out

        computer.run("systemctl", "start", "pcscd.socket").check()
        before = computer.units()
        assert "Virtual PCD" in readers()
        computer.run("cardferry", "setup", "system").check()
        set_up, first = computer.units(), process()
        assert set_up != before
        assert "system this computer: since" in computer.run("cardferry", "status").out
        shutil.copy(newer, booting.folder / "root" / "x.deb")
        computer.run("dpkg", "--install", "/root/x.deb").check()
        assert computer.run("cardferry", "--version").out == f"cardferry {__version__}\n"
        assert computer.units() == set_up
        assert process() not in (first, "0\n"), "it runs what is installed now"
        assert "Virtual PCD" in readers()
        assert "system this computer: since" in computer.run("cardferry", "status").out
        computer.run("dpkg", "--remove", "cardferry").check()
        assert computer.units() == before
        assert "Virtual PCD" in readers()
        assert not list(booting.folder.glob("etc/**/*cardferry*"))
        computer.run("dpkg", "--purge", "cardferry").check()
        assert computer.units() == before


def test_lintian_finds_no_error() -> None:
    if shutil.which("lintian") is None:
        pytest.skip("not run, missing: lintian")
    run("lintian", "--allow-root", "--fail-on", "error", package(RELEASES["bookworm"]))
