"""The service of the whole computer (``setup system``), which has the one queue: who goes there. Only light imports."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from platformdirs import user_config_path

from cardferry.app.runtime.paths import SYSTEM_GUESTS, agent_path, runtime_folder
from cardferry.app.runtime.request import LOCAL, Request

#: What a person can do when it has gone.
RESTART: Final = "systemctl restart cardferry-system"
_OURS: Final = "cardferry"


def has_the_queue(request: Request) -> bool:
    """Whether that service serves what is asked for, and not an agent of this account.

    An agent is for what the service does not do for an account: it has no rules of the account's, and writes no files
    for it. Where one is there, it goes on: whoever comes joins its guests.
    """
    plain = request.readers == LOCAL and not request.record and not request.config
    return plain and not agent_path(runtime_folder()).exists() and serves(user_config_path(_OURS))


def serves(config: Path, guests: Path = SYSTEM_GUESTS) -> bool:
    """Whether it is there, and the account has no rules of its own.

    Args:
        config: the account's folder for its configuration.
        guests: where the service takes guests; root's, or it is not that service.
    """
    try:
        if (config / "config.toml").exists() or guests.stat().st_uid != 0:
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(os.fspath(guests))
    except OSError:
        return False
    return True
