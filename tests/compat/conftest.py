"""What the tests with other releases' programs share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.compat import foreign
from tests.compat.foreign import CLIENTS, SERVERS, NotAvailableError

_HERE = Path(__file__).parent
_PROGRAMS = {"qemu-arm-static": "qemu-user-static", "qemu-s390x-static": "qemu-user-static", "bwrap": "bubblewrap"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/compatibility.md from what is seen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is ``real``."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def releases() -> None:
    """All releases' programs are there. What is missing is named; in CI it fails."""
    missing = [f"{name} (Debian package {package})" for name, package in _PROGRAMS.items() if not shutil.which(name)]
    try:
        for release in CLIENTS:
            foreign.unpack_client(release)
        for release in SERVERS:
            foreign.unpack_server(release)
    except NotAvailableError as error:
        missing.append(str(error))
    if missing:
        reason = "not run, missing: " + "; ".join(missing)
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
