"""The programs of one release at a deployment, and what they said: `client.py`, which uses all of PC/SC, and pcsc_scan.

Both start with an empty reader and wait, then a card is inserted, and in the end it is taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cardferry.pcsc.errors import ReturnCode
from tests.compat import foreign
from tests.compat.deployments import Stage
from tests.compat.foreign import Release
from tests.lab.process import LabError, Running

CLIENT = Path(__file__).with_name("client.py")
#: s for programs that run in an emulated processor, twelve at a time.
_PATIENCE = 60.0
_LAST_STEP = "release"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the programs of one release said.

    Attributes:
        failure: what went wrong first, in words for the table; empty when everything worked.
        attributes: what the reader told about itself.
        log: all that was said.
    """

    failure: str
    attributes: dict[str, int | str]
    log: str


class Programs:
    """Both programs of a release, started.

    Args:
        stage: where.
        release: whose.
    """

    def __init__(self, stage: Stage, release: Release) -> None:
        self.release = release
        self._reader = stage.reader
        client = foreign.python(release, CLIENT, stage.reader, "--wait-for-card")
        self._client = stage.guest.popen(client, stage.env)
        self._scan = stage.guest.popen(foreign.command(release, "usr/bin/pcsc_scan", "-n"), stage.env)
        self._missing = ""

    def wait_until_waiting(self) -> None:
        """Wait until both wait for a card, or have failed."""
        _appears(self._client, '"waiting"')
        if not (_appears(self._scan, f"^0: {self._reader}") and _appears(self._scan, "Card removed")):
            self._missing = "the reader"

    def wait_until_served(self) -> None:
        """After the card was inserted: wait until the client is through and pcsc_scan has seen the card."""
        self._client.wait(_PATIENCE)
        if not self._missing and not _appears(self._scan, "Card inserted"):
            self._missing = "the card"

    def wait_until_empty(self) -> None:
        """After the card was taken out: wait until pcsc_scan has seen that; end it."""
        if not self._missing and not _appears(self._scan, "Card removed"):
            self._missing = "the card's removal"
        self._scan.close()

    def observation(self) -> Observation:
        """What they said."""
        steps = [json.loads(line) for line in self._client.out.text.splitlines()]
        attributes: dict[str, int | str] = next(
            (step["detail"] for step in steps if step["step"] == "attributes" and step["ok"]), {}
        )
        return Observation(_client_failure(steps) or self._scan_failure(), attributes, f"{self._client}\n{self._scan}")

    def _scan_failure(self) -> str:
        if not self._missing:
            return ""
        error = re.search(r"(SCard\w+): (.*)", self._scan.out.text + self._scan.err.text)
        if error is None:
            return f"pcsc_scan does not see {self._missing}"
        # A code that does not exist is a piece of something else, and another one each time.
        return f"pcsc_scan: {error[1]}: {re.sub('0x[0-9A-F]+', '0x...', error[2].rstrip(' .'))}"


def _client_failure(steps: Sequence[dict[str, object]]) -> str:
    if not steps:
        return "client.py does not start"
    last = steps[-1]
    if not last["ok"]:
        return re.sub("0x([0-9A-F]{8})", lambda code: f"SCARD_{ReturnCode(int(code[1], 16)).name}", str(last["detail"]))
    return "" if last["step"] == _LAST_STEP else f"hangs after {last['step']}"


def _appears(program: Running, pattern: str) -> bool:
    """Whether a program says that, as long as it runs."""
    try:
        program.wait_for(pattern, timeout=_PATIENCE)
    except LabError:
        return False
    return True


def together(stage: Stage, releases: Sequence[Release]) -> dict[Release, Observation]:
    """The programs of all releases at the same time on one card."""
    everybody = [Programs(stage, release) for release in releases]
    for programs in everybody:
        programs.wait_until_waiting()
    stage.insert()
    for programs in everybody:
        programs.wait_until_served()
    stage.remove()
    for programs in everybody:
        programs.wait_until_empty()
    return {programs.release: programs.observation() for programs in everybody}


def one_by_one(stage: Stage, releases: Sequence[Release]) -> dict[Release, Observation]:
    """The programs of one release after the other: nobody is disturbed by anybody else."""
    return {release: together(stage, [release])[release] for release in releases}
