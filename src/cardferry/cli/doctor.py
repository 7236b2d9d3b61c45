"""``cardferry doctor``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import click

from cardferry.app.hosts.address import HostAddress
from cardferry.app.runtime import signals as lifetime
from cardferry.cli.options import HostType, json_option, ssh_option
from cardferry.cli.say import mark, say, say_json
from cardferry.transports.ssh import SshCommand

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "problem": ("✗", "red")}
#: Not everything was looked at.
_INTERRUPTED: Final = 130


@click.command("doctor")
@click.argument("host", type=HostType(), required=False)
@ssh_option
@json_option
def command(host: HostAddress | None, ssh: SshCommand, as_json: bool) -> None:
    """Say what is wrong, and how to mend it.

    Looks at this computer, and at HOST if one is named. The exit code is 0 only when there is no problem.
    """
    from cardferry.app.doctor import Finding, State, examine  # noqa: PLC0415 - brings the readers along

    findings: list[Finding] = []
    logging.getLogger("cardferry").setLevel(logging.ERROR)  # what layers below warn of is in our findings

    async def main() -> bool:
        async for finding in examine(host, ssh, os.environ):
            findings.append(finding)
            if not as_json:
                _show(finding.state.value, finding.probe, finding.says, finding.hint)
        return True

    if not lifetime.run(main):
        sys.exit(_INTERRUPTED)
    if as_json:
        say_json(findings)
    sys.exit(1 if any(finding.state is State.PROBLEM for finding in findings) else 0)


def _show(state: str, probe: str, says: str, hint: str) -> None:
    say(f"{probe}: {says}", before=f"{mark(*_MARKS[state])} ")
    if hint:
        say(f"hint: {hint}", before="  ")
