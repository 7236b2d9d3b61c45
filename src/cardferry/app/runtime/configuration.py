"""What the configuration says, and what is kept of what happens: the guard of this computer's readers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from platformdirs import user_state_path

from cardferry.app.runtime.configuration_path import find_configuration
from cardferry.app.runtime.paths import runtime_folder
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard import HostGuard
from cardferry.policy.guard.tickets import Tickets
from cardferry.policy.guard.wrong_pins import WrongPins
from cardferry.policy.rulebook import Rulebook
from cardferry.system.peers import user_name

_OURS: Final = "cardferry"
_WRONG_PINS, _TICKETS = "wrong-pins.json", "tickets.json"


def audit_path(rulebook: Rulebook) -> Path:
    """Where the audit is: where the configuration says, or in the account's folder for what programs keep."""
    named = rulebook.configuration.audit_file
    return Path(named).expanduser() if named else user_state_path(_OURS) / "audit.jsonl"


def rulebook(named: Path | None = None, *, everybody: bool = False) -> Rulebook:
    """The rules in force for this account, or for everybody here; raises `UserError` when the file is wrong."""
    return Rulebook(lambda: find_configuration(named), user_name(os.getuid()), everybody=everybody)


def wrong_pins() -> WrongPins:
    """Who has given wrong PINs at this account's readers."""
    return WrongPins(runtime_folder() / _WRONG_PINS)


def tickets() -> Tickets:
    """What programs may give in the place of a PIN at this account's readers; gone with the computer's next start."""
    return Tickets(runtime_folder() / _TICKETS)


def host_guard(named: Path | None = None, *, everybody: bool = False) -> HostGuard:
    """What decides who may do what with this computer's readers.

    Args:
        named: the configuration, by ``--config``.
        everybody: without a configuration all local programs may do everything, as at pcscd.

    Raises:
        UserError: the configuration is wrong, or the audit cannot be written.
    """
    rules = rulebook(named, everybody=everybody)
    audit = None if rules.configuration.audit == "off" else AuditLog(audit_path(rules))
    return HostGuard(rules, audit, wrong_pins(), tickets())
