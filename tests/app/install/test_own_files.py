"""What is brought to another computer: all that runs here, wherever it is installed, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from cardferry import __version__
from cardferry.app.install.bundle import Bundle, bundle, trial
from cardferry.app.install.own_files import own_abi, own_packages
from cardferry.app.install.there import Python, SetupError

PYTHON = Python(sys.executable, sys.version_info[:3], own_abi(), 36)


@pytest.fixture(scope="module")
def made() -> Bundle:
    return bundle(own_packages(), PYTHON)


def test_all_that_is_needed_is_there_and_no_tool_of_the_developers() -> None:
    packages = {package.name.lower().replace("_", "-"): package for package in own_packages()}
    assert {"cardferry", "click", "cryptography", "cffi", "msgspec", "platformdirs", "rich", "uvloop"} <= set(packages)
    assert not {"pytest", "mypy", "keyring", "dbus-fast", "uv"} & set(packages)
    assert not packages["uvloop"].pure
    assert packages["click"].pure
    assert packages["cryptography"].glibc > 0
    assert "cardferry/transports/ssh/guard.sh" in packages["cardferry"].files
    names = [name for package in packages.values() for name in package.files]
    assert not [name for name in names if "__pycache__" in name or name.startswith(("/", ".."))]


def test_it_runs_where_nothing_else_is(made: Bundle, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(made.compressed())) as archive:
        archive.extractall(tmp_path, filter="data")
    (site,) = tmp_path.glob("lib/python3*/site-packages")
    base = getattr(sys, "_base_executable", sys.executable)
    words = [base, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {trial(own_packages())}"]
    subprocess.run(words, check=True)
    again = "; from cardferry.app.install.own_files import own_packages; print(len(own_packages()))"
    done = subprocess.run([*words[:-1], words[-1] + again], check=True, capture_output=True, text=True)
    assert int(done.stdout) == len(own_packages())  # from there it can be brought to a third computer


def test_the_same_files_have_the_same_name(made: Bundle) -> None:
    assert made.name.startswith(f"{__version__}-")
    assert bundle(reversed(own_packages()), PYTHON).name == made.name
    assert bundle(own_packages(), Python("/elsewhere/python3", PYTHON.version, PYTHON.abi)).name != made.name


def test_who_cannot_tell_its_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    with pytest.raises(SetupError) as error:
        own_packages()
    assert error.value.message == "it is not known which files here cardferry consists of"
