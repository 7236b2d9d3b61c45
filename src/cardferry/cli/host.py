"""``cardferry host``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cardferry.cli.configured import Configured, only_tried
from cardferry.cli.fleet_options import fleet_option
from cardferry.cli.seconds import SecondsType
from cardferry.cli.tls_options import TlsFiles, tls_options
from cardferry.cli.verbosity import verbose_option

#: Where Prometheus asks by default.
_METRICS = "127.0.0.1:7766"
#: Where the page is by default.
_WEB = "127.0.0.1:7765"


def _readers(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    from cardferry.cli import names  # noqa: PLC0415 - not for --stdio

    return names.beginning(names.readers(), incomplete)


def _each(option: str, *values: str | None) -> list[str]:
    """The option with each value that there is."""
    return [word for value in values if value is not None for word in (option, value)]


@click.command("host", cls=Configured)
@click.option("--stdio", is_flag=True, help="hand standard input and output to the agent; what ssh runs")
@click.option("--name", default="", help="with --stdio, in authorized_keys: the name of the key, for rules and records")
@click.option("--called", default="", hidden=True, help="with --stdio: what the guest calls itself")
@click.option("--asks-direct", is_flag=True, hidden=True, help="with --stdio: the guest wants connections of its own")
@click.option(
    "--readers",
    default="pcscd:/run/pcscd/pcscd.comm",
    show_default=True,
    metavar="HOST",
    help="where the readers are: pcscd:PATH, vpicc:PORT, vpicc:unix:PATH, virtual:",
)
@click.option(
    "--reader",
    metavar="GLOB",
    multiple=True,
    shell_complete=_readers,
    help="offer only readers whose names match, in this order; repeatable",
)
@click.option("--record", metavar="FILE", type=click.Path(path_type=Path), help="add each call as a line to FILE")
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="also take guests at unix:PATH, vsock::PORT (any machine), vsock:CID:PORT (that one), tls::PORT, "
    "tls:ADDRESS:PORT, fleet:NAME; repeatable",
)
@fleet_option("be in a fleet at these NATS servers, or at those of the configuration", bare=True)
@click.option("--fleet-name", metavar="NAME", help="what this host is called there  [default: the computer's name]")
@click.option("--fleet-label", metavar="KEY=VALUE", multiple=True, help="what others look for; repeatable")
@tls_options
@click.option(
    "--metrics",
    is_flag=False,
    flag_value=_METRICS,
    metavar="[ADDRESS:PORT]",
    help="tell Prometheus on this computer how it goes; at http://" + _METRICS + "/metrics",
)
@click.option(
    "--web",
    is_flag=False,
    flag_value=_WEB,
    metavar="[ADDRESS:PORT]",
    help="have a web page: readers, guests, the audit, questions for you; at " + _WEB,
)
@click.option(
    "--web-viewer",
    multiple=True,
    metavar="tls:NAME",
    help="who may see the page at an address that other computers reach, with a certificate; repeatable",
)
@click.option(
    "--direct/--no-direct",
    default=None,
    help="guests over ssh may have a connection of their own beside it (attach --direct)  "
    "[default: those whose key has no command of its own]",
)
@click.option("--direct-ports", default="", metavar="PORTS", help="where: 7770, or 7770-7779  [default: any free port]")
@click.option("--mode", default="0600", show_default=True, help="access rights of --listen unix:PATH")
@click.option("--group", metavar="GROUP", help="the group that gets --listen unix:PATH")
@click.option("--accelerate/--no-accelerate", default=True, show_default=True, help="run ahead where that is safe")
@click.option("--memory/--no-memory", default=True, show_default=True, help="tell guests what cards have said before")
@click.option(
    "--grace",
    type=SecondsType(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="a guest that is out of reach keeps what it holds for S seconds",
)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="the rules: who may do what")
@click.option("--max-idle", type=SecondsType(zero=False), default=30.0, show_default=True, metavar="S")
@click.option("--max-hold", type=SecondsType(zero=False), default=120.0, show_default=True, metavar="S")
@click.option("--idle", type=SecondsType(), metavar="S", help="leave after S seconds without a guest")
@click.option("--ready", type=int, hidden=True)
@verbose_option
def command(
    *,
    stdio: bool,
    name: str,
    called: str,
    asks_direct: bool,
    direct: bool | None,
    direct_ports: str,
    readers: str,
    reader: tuple[str, ...],
    record: Path | None,
    listen: tuple[str, ...],
    metrics: str | None,
    web: str | None,
    web_viewer: tuple[str, ...],
    mode: str,
    group: str | None,
    accelerate: bool,
    memory: bool,
    grace: float,
    config: Path | None,
    max_idle: float,
    max_hold: float,
    idle: float | None,
    ready: int | None,
    tls_files: TlsFiles,
    fleet: str | None,
    fleet_name: str | None,
    fleet_label: tuple[str, ...],
    verbose: int,
) -> None:
    """Serve this computer's readers to guests that have cardferry, too.

    `cardferry attach` on another computer runs `cardferry host --stdio` here by itself, through ssh; that starts the
    agent and it leaves when nobody needs it. Run `cardferry host` to have one all the time, or for guests that need no
    ssh: in a container (--listen unix:PATH, in a folder that it shares), a virtual machine (--listen vsock::PORT), or
    anywhere (--listen tls::7764; `cardferry invite` lets them in), also through a NATS service that both ends dial
    (--fleet).
    """
    if stdio:
        from cardferry.app.agent.stdio_session import hand_to_agent  # noqa: PLC0415 - all that a session of ssh needs
        from cardferry.app.runtime.request import Request, whole_path  # noqa: PLC0415

        request = Request(
            readers, reader, whole_path(record), max_idle, max_hold,
            grace=grace, accelerate=accelerate, memory=memory, config=whole_path(config),
        )  # fmt: skip
        words = [
            "--readers", readers, "--grace", f"{grace:g}", "--mode", mode,
            "--max-idle", f"{max_idle:g}", "--max-hold", f"{max_hold:g}",
            *_each("--listen", *map(tls_files.into, listen)), *_each("--reader", *reader), *_each("--metrics", metrics),
            *_each("--web", web), *_each("--web-viewer", *web_viewer), *_each("--group", group),
            *_each("--record", whole_path(record) or None), *_each("--config", whole_path(config) or None),
            *([] if accelerate else ["--no-accelerate"]), *([] if memory else ["--no-memory"]),
        ]  # fmt: skip
        may = direct if direct is not None or not asks_direct else True
        hand_to_agent(name, called, os.environ, words, request, direct=may, direct_ports=direct_ports)
        return
    from cardferry.app.agent.introductions import Place  # noqa: PLC0415
    from cardferry.app.agent.leading import no_page  # noqa: PLC0415
    from cardferry.app.agent.server import AgentSettings, serve  # noqa: PLC0415
    from cardferry.app.hosts.registry import parse_host  # noqa: PLC0415
    from cardferry.app.metrics.endpoint import metrics_at  # noqa: PLC0415
    from cardferry.app.runtime import logging as logs  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415 - not for --stdio
    from cardferry.app.runtime.configuration import host_guard  # noqa: PLC0415
    from cardferry.app.runtime.fleet import host_in_fleet, listening_address  # noqa: PLC0415
    from cardferry.app.runtime.service import Service  # noqa: PLC0415
    from cardferry.app.runtime.spawn import Starter, StartReport, settle_in_background  # noqa: PLC0415
    from cardferry.app.web.opening import check_page, page_at  # noqa: PLC0415
    from cardferry.cli.options import ModeType  # noqa: PLC0415
    from cardferry.manager import Settings  # noqa: PLC0415
    from cardferry.pcsc.errors import UserError  # noqa: PLC0415
    from cardferry.transports.listening import check_group  # noqa: PLC0415
    from cardferry.transports.sockets import Access  # noqa: PLC0415

    logs.set_up(verbose, timed=ready is not None)
    if ready is not None:
        settle_in_background()
    try:
        Place.of("", direct_ports)
        access = Access(ModeType().convert(mode, None, None), group)
        served = parse_host(readers)
        listen += host_in_fleet(fleet, fleet_name, fleet_label, config)
        addresses = tuple(listening_address(one, config) for one in map(tls_files.into, listen))
        beside = None if metrics is None else metrics_at(metrics)
        check_page(web, web_viewer)
        if only_tried():
            check_group(group)
            return
        guard = host_guard(config)
        page = no_page if web is None else page_at(web, guard, web_viewer, list(filter(None, tls_files)))
    except UserError as error:
        Starter(ready).tell(StartReport.of(error))
        raise
    wanted = AgentSettings(
        served,
        Service(
            settings=Settings(max_idle=max_idle, max_hold=max_hold),
            record=record,
            readers=reader,
            memory=memory,
            config=config,
            guard=guard,
        ),
        accelerate,
        grace,
        idle,
        addresses,
        access,
        by_hand=ready is None or idle is None,
        beside=beside,
        page=page,
        direct=direct,
        direct_ports=direct_ports,
    )
    lifetime.run(lambda: serve(wanted, ready), hang_up=guard.rulebook.reload)
