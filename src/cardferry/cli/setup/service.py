"""``cardferry setup service``: units of systemd that run ``attach``, ``share`` or ``host``."""

from __future__ import annotations

import click


@click.group("service")
def command() -> None:
    """Start attach, share or host with this computer, by systemd."""
