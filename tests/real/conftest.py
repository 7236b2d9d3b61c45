"""What the tests with real parts share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.namespaces import is_root
from tests.lab.recipe import Recipe

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is ``real``."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    """Two computers for a whole file: leave the host's pcscd and both sshds as they are."""
    with Lab() as lab:
        recipe = Recipe(lab)
        fake_card(recipe.pcscd)
        yield recipe


@pytest.fixture
def needs_second_user() -> None:
    """For tests in which somebody else logs in: only root can be two users."""
    if not is_root():
        if os.environ.get("CI"):
            pytest.fail("needs root", pytrace=False)
        pytest.skip("not run, missing: root, to be two users")
