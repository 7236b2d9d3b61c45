"""``cardferry host``."""

from __future__ import annotations

import os

import click

from cardferry.app import lifetime, logs
from cardferry.app.agent import Agency, guest_name, hand_over, serve
from cardferry.app.host import Host, spelled
from cardferry.app.serving import Service
from cardferry.app.share import LOCAL_PCSCD
from cardferry.cli.options import HostType, verbose_option
from cardferry.manager import Settings


@click.command("host")
@click.option("--stdio", is_flag=True, help="hand standard input and output to the agent; what ssh runs")
@click.option(
    "--readers",
    type=HostType(),
    default=spelled(LOCAL_PCSCD),
    show_default=True,
    help="where the readers are: pcscd:PATH, vpicc:PORT, virtual:",
)
@click.option("--accelerate/--no-accelerate", default=True, show_default=True, help="run ahead where that is safe")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=Agency().grace,
    show_default=True,
    metavar="S",
    help="a guest that is out of reach keeps what it holds for S seconds",
)
@click.option("--max-idle", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, metavar="S")
@click.option("--idle", type=click.FloatRange(min=0), metavar="S", help="leave after S seconds without a guest")
@click.option("--ready", type=int, hidden=True)
@verbose_option
def command(
    *,
    stdio: bool,
    readers: Host,
    accelerate: bool,
    grace: float,
    max_idle: float,
    idle: float | None,
    ready: int | None,
    verbose: int,
) -> None:
    """Serve this computer's readers to guests that have cardferry, too.

    `cardferry attach` on another computer runs `cardferry host --stdio` here by itself, through ssh; that starts the
    agent and it leaves when nobody needs it. Run `cardferry host` to have one all the time.
    """
    logs.set_up(verbose)
    if stdio:
        hand_over(guest_name(dict(os.environ)), [] if accelerate else ["--no-accelerate"])
        return
    agency = Agency(readers, Service(settings=Settings(max_idle=max_idle)), accelerate, grace, idle)
    lifetime.run(lambda: serve(agency, ready))
