"""The ways in which a guest attaches a host: linked or forwarded, next door or far away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from tests.lab.computer import CARDFERRY
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach
from tests.lab.link import install_cardferry, link_of
from tests.lab.recipe import Recipe

#: cardferry on the host; its agent, which it starts for a linked guest, is told what an administrator would set there.
_SCRIPT = """\
#!/bin/sh
[ "$1" = host ] && shift && exec {program} host {option} "$@"
exec {program} "$@"
"""
#: s, there and back.
FAR = 0.04


@dataclass(frozen=True, slots=True)
class Way:
    """One of them.

    Attributes:
        linked: cardferry is at both ends; otherwise the host's pcscd is forwarded.
        round_trip: in s.
    """

    linked: bool
    round_trip: float

    def __str__(self) -> str:
        distance = f"over {self.round_trip * 1000:g} ms" if self.round_trip else "next door"
        return f"{'linked' if self.linked else 'forwarded'}, {distance}"

    @contextmanager
    def attached(self, recipe: Recipe, max_idle: float | None = None) -> Iterator[Ferry]:
        """``cardferry attach`` on the recipe's guest, ready; ``max_idle`` in s, at whichever end has the queue."""
        option = "" if max_idle is None else f"--max-idle {max_idle:g}"
        install_cardferry(recipe.host, script=_SCRIPT.format(program=CARDFERRY, option=option))
        words = [*option.split(), *(() if self.linked else ("--no-link",))]
        with ExitStack() as stack:
            config = recipe.to_host
            if self.round_trip:
                far = stack.enter_context(closing(DelayedPort(recipe.guest, recipe.host, self.round_trip / 2)))
                config = recipe.host_sshd.config(recipe.guest, "far", far.address, far.port)
            ferry = attach(recipe, *words, host="far" if self.round_trip else "host", config=config)
            stack.callback(ferry.stop)
            assert link_of(recipe.guest, "attach").way == ("link" if self.linked else "forwarding")
            yield ferry


WAYS = (Way(True, 0.0), Way(True, FAR), Way(False, 0.0), Way(False, FAR))
