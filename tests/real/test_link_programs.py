"""Unmodified programs over a link, cardferry at both ends, both directions: what works over plain forwarding works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.cards import cac_card, openpgp_card, piv_card
from tests.lab.ferry import attach, share
from tests.lab.link import install_cardferry, link_of
from tests.lab.neighbours import Neighbours
from tests.lab.recipe import Recipe
from tests.real.test_programs import (
    CAC,
    OPENPGP,
    PIV,
    Crossing,
    test_cac_card_lists_its_objects,
    test_cac_card_signs_through_pkcs11,
    test_openpgp_card_makes_its_keys_and_signs_with_gpg,
    test_opensc_tool_lists_readers_and_atr,
    test_pcsc_scan_sees_readers_and_cards,
    test_piv_card_signs_through_pkcs11,
    test_pkcs11_tool_lists_the_objects_of_the_piv_card,
    test_wrong_pin_is_refused_and_counted,
    test_yubico_piv_tool_makes_a_key_and_a_certificate,
)

#: The tests of the other file, with this file's `crossing`.
__all__ = [
    "test_cac_card_lists_its_objects",
    "test_cac_card_signs_through_pkcs11",
    "test_openpgp_card_makes_its_keys_and_signs_with_gpg",
    "test_opensc_tool_lists_readers_and_atr",
    "test_pcsc_scan_sees_readers_and_cards",
    "test_piv_card_signs_through_pkcs11",
    "test_pkcs11_tool_lists_the_objects_of_the_piv_card",
    "test_wrong_pin_is_refused_and_counted",
    "test_yubico_piv_tool_makes_a_key_and_a_certificate",
]


@pytest.fixture(params=["attach", "share", "unix"], scope="module")
def crossing(request: pytest.FixtureRequest) -> Iterator[Crossing]:
    """A host with three cards in four readers, linked to the guest."""
    with Lab() as lab:
        recipe = Recipe(lab, readers=4)
        piv_card(recipe.pcscd, PIV)
        openpgp_card(recipe.pcscd, OPENPGP)
        cac_card(recipe.pcscd, CAC)
        if request.param == "unix":
            near = Neighbours.of(recipe.host, recipe.guest, lab.folder)
            near.agent()
            yield Crossing(recipe, near.attach(), recipe.host)
            return
        attaching = request.param == "attach"
        install_cardferry(recipe.host if attaching else recipe.guest)
        ferry = attach(recipe) if attaching else share(recipe)
        assert link_of(recipe.guest if attaching else recipe.host, request.param).way == "link"
        yield Crossing(recipe, ferry, recipe.host)
