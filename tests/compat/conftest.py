"""What the tests with other releases' programs share."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compat import foreign
from tests.compat.foreign import CLIENTS, SERVERS, NotAvailableError, Release
from tests.lab.namespaces import is_root

_HERE = Path(__file__).parent
#: s that the first test may take, when nothing is in the cache yet.
_DOWNLOAD_TIME = 900
_PROGRAMS = {"qemu-arm-static": "qemu-user-static", "qemu-s390x-static": "qemu-user-static", "bwrap": "bubblewrap"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/compatibility.md from what is seen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is ``real``."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(_DOWNLOAD_TIME))


@pytest.fixture
def as_root() -> None:
    """For recipes that an administrator follows."""
    if not is_root():
        if os.environ.get("CI"):
            pytest.fail("needs root")
        pytest.skip("not run, missing: root")


def _unpack(release: Release) -> None:
    foreign.unpack_client(release)
    if release in SERVERS:
        foreign.unpack_server(release)


@pytest.fixture(scope="session")
def releases() -> None:
    """All releases' programs are there. What is missing is named; in CI it fails."""
    missing = [f"{name} (Debian package {package})" for name, package in _PROGRAMS.items() if not shutil.which(name)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(_unpack, CLIENTS))
    except NotAvailableError as error:
        missing.append(str(error))
    if missing:
        reason = "not run, missing: " + "; ".join(missing)
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
