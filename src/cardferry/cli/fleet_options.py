"""Options about a fleet on NATS. Light, because `cardferry host` starts often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def fleet_option(help_: str, *, bare: bool) -> Callable[[Function], Function]:
    """``--fleet SERVERS``; the command gets None where it was not given.

    Args:
        bare: whether it may be given without servers, for those of the configuration: the command gets an empty text.
    """
    metavar = "[nats://HOST,...]" if bare else "nats://HOST,..."
    if bare:
        return click.option("--fleet", is_flag=False, flag_value="", metavar=metavar, help=help_)
    return click.option("--fleet", metavar=metavar, help=help_)
