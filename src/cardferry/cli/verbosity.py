"""``-v`` and ``-q``. A module of its own, because some commands must start fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

import click

Function = TypeVar("Function", bound=Callable[..., Any])

#: What `verbose_option` hands over for ``-q``.
QUIET: Final = -1


def verbose_option(function: Function) -> Function:
    """``-v`` and ``-q``; the command gets ``verbose``: how often ``-v`` was given, or `QUIET`."""

    @wraps(function)
    def command(*, verbose: int, quiet: bool, **rest: Any) -> Any:
        return function(verbose=QUIET if quiet else verbose, **rest)

    command = click.option("-q", "--quiet", is_flag=True, help="say only what somebody should do something about")(
        command
    )
    command = click.option("-v", "--verbose", count=True, help="say more; twice: the traffic, secrets left out")(
        command
    )
    return cast(Function, command)
