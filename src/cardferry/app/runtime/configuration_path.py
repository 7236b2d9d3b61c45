"""Which configuration file holds: one is used, the first that there is.

That of ``--config``, the account's own (XDG Base Directory Specification 0.8), the computer's. Only light imports:
each session that ssh opens looks for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: The computer's own configuration.
SYSTEM: Final = Path("/etc/cardferry/config.toml")


def own_configuration() -> Path:
    """Where the account's own is, if there is one."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return base / "cardferry" / "config.toml"


def find_configuration(named: Path | None = None) -> Path | None:
    """The file that holds; None when there is none.

    Args:
        named: by ``--config``; it must be there, whoever reads it will say so otherwise.
    """
    if named is not None:
        return named
    return next((path for path in (own_configuration(), SYSTEM) if path.exists()), None)
