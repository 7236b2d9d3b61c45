"""A real reader with a real card, chosen with ``--reader NAME`` (a part of its name is enough).

Only harmless commands are sent: the card is selected, never changed, and no PIN is tried.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.lab import process
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Running

SELECT_MF = "00A4000C023F00"


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> str:
    name: str | None = request.config.getoption("--reader")
    if name is None:
        pytest.skip("needs --reader NAME")
    return name


def pcsc(words: list[str], socket: str | None = None) -> dict[str, Any]:
    env = dict(os.environ, **({} if socket is None else {"PCSCLITE_CSOCK_NAME": socket}))
    answer: dict[str, Any] = json.loads(process.run([PLAIN_PYTHON, PCSC_CLIENT, *words], env).out)
    return answer


def test_reader_answers_to_plain_pcsc(reader: str) -> None:
    assert len(pcsc(["apdu", reader, SELECT_MF])["answers"][0]) >= 4


def test_reader_answers_the_same_through_cardferry(reader: str) -> None:
    directly = pcsc(["apdu", reader, SELECT_MF]), pcsc(["list"])
    with Running([CARDFERRY, "attach", "pcscd:/run/pcscd/pcscd.comm"], dict(os.environ)) as ferry:
        socket = ferry.wait_for("export PCSCLITE_CSOCK_NAME=(.*)")[1]
        assert (pcsc(["apdu", reader, SELECT_MF], socket), pcsc(["list"], socket)) == directly
