"""Every client with every server: unmodified programs of six Debian releases and processors, in all deployments.

Each deployment is built once, all programs use it, and each cell of ``docs/compatibility.md`` is a test.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.compat import report
from tests.compat.deployments import Deployment, Form, deployed
from tests.compat.foreign import CLIENTS, SERVERS, Release
from tests.compat.programs import Observation, one_by_one, together
from tests.compat.report import BY_HAND, DOCUMENT, FERRIED, WORKS

#: What this run has seen.
_seen: dict[tuple[Release, Deployment], str] = {}

Column = tuple[Deployment, Mapping[Release, Observation]]


#: What is only compared with: one of them in each run, the others with ``--slow``.
_COMPARED = [pytest.param(one, marks=pytest.mark.slow) if number else one for number, one in enumerate(BY_HAND)]
#: Of the servers with cardferry the oldest and the newest, and all with ``--slow``.
_SERVED = [
    pytest.param(one, marks=pytest.mark.slow) if one.server not in (None, SERVERS[0], SERVERS[-1]) else one
    for one in FERRIED
]


@pytest.fixture(scope="module", params=[*_SERVED, *_COMPARED], ids=lambda deployment: deployment.name)
def column(request: pytest.FixtureRequest, releases: None) -> Column:
    """What the programs of all releases say in one deployment.

    With cardferry they run at the same time. With ssh alone that fails now and then whatever the versions, because
    pcscd has no room for several new connections at once: so one after the other.
    """
    deployment: Deployment = request.param
    with deployed(deployment) as stage:
        run = together if deployment.ferried else one_by_one
        return deployment, run(stage, CLIENTS)


@pytest.mark.parametrize("release", CLIENTS, ids=lambda release: release.name.replace(" ", "-"))
def test_programs(column: Column, release: Release, pytestconfig: pytest.Config) -> None:
    """What works and what does not is as the table says, and with cardferry everything works."""
    deployment, observations = column
    seen = observations[release]
    cell = _seen[release, deployment] = seen.failure or WORKS
    if deployment.ferried:
        assert cell == WORKS, seen.log
        assert seen.attributes == observations[CLIENTS[0]].attributes
    if not pytestconfig.getoption("--write-table", default=False):
        assert cell == report.seen_before().get((release, deployment)), seen.log


def test_number_in_an_attribute_is_the_same_for_either_byte_order(column: Column) -> None:
    deployment, observations = column
    if deployment.form is Form.BUILT_IN:  # vpcd's driver has no such attribute
        versions = {release.arch: observations[release].attributes["0x00010102"] for release in CLIENTS}
        assert versions == dict.fromkeys(("amd64", "armhf", "s390x"), 0x0100_0000)


def test_table_is_what_was_seen(releases: None, pytestconfig: pytest.Config) -> None:
    everything = {(release, deployment) for release in CLIENTS for deployment in (*FERRIED, *BY_HAND)}
    cells = _seen if _seen.keys() == everything else {**report.seen_before(), **_seen}
    document = report.render(cells)
    if pytestconfig.getoption("--write-table", default=False):
        DOCUMENT.write_text(document)
    assert report.comparable(DOCUMENT.read_text()) == report.comparable(document), "run it with --write-table"
