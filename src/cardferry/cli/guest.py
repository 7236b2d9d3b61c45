"""``cardferry guest``: what ``cardferry share`` runs on the other side."""

from __future__ import annotations

from pathlib import Path

import click

from cardferry.cli.seconds import SecondsType
from cardferry.cli.verbosity import verbose_option


@click.command("guest")
@click.option("--stdio", is_flag=True, help="hand standard input and output to the guest; what ssh runs")
@click.option("--name", default="host", help="with --stdio: who lends its readers")
@click.option(
    "--token-stdin",
    is_flag=True,
    help="with --stdio: the first line of standard input proves that it is the same one as before",
)
@click.option("--socket", type=click.Path(path_type=Path), help="where programs shall connect")
@click.option("--mode", default="0600", show_default=True, help="the socket's access rights")
@click.option("--group", metavar="GROUP", help="the group that gets the socket")
@click.option("--reader-slots", type=click.IntRange(1, 1024), default=16, show_default=True, metavar="N")
@click.option("--old-names", is_flag=True, help="for programs with pcsc-lite 1.6.5 to 1.8.3, whose names are short")
@click.option(
    "--grace",
    type=SecondsType(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="programs wait S seconds for a host that is out of reach",
)
@click.option("--ready", type=int, hidden=True)
@verbose_option
def command(
    *,
    stdio: bool,
    name: str,
    token_stdin: bool,
    socket: Path | None,
    mode: str,
    group: str | None,
    reader_slots: int,
    old_names: bool,
    grace: float,
    ready: int | None,
    verbose: int,
) -> None:
    """Serve programs here with readers that another computer lends.

    `cardferry share` on that computer runs `cardferry guest --stdio` here by itself, through ssh.
    """
    if stdio:
        from cardferry.app.agent.handoff_client import read_token  # noqa: PLC0415 - all that a session of ssh needs
        from cardferry.app.agent.stdio_session import hand_to_remote_end  # noqa: PLC0415
        from cardferry.app.runtime.handoff import Handoff  # noqa: PLC0415

        words = ["--mode", mode, "--reader-slots", str(reader_slots), "--grace", f"{grace:g}"]
        words += [*(["--group", group] if group else []), *(["--old-names"] if old_names else [])]
        hand_to_remote_end(Handoff(name, read_token() if token_stdin else ""), socket, words)
        return
    from cardferry.app.runtime import logging as logs  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415 - not for --stdio
    from cardferry.app.runtime.service import Service  # noqa: PLC0415
    from cardferry.app.runtime.spawn import settle_in_background  # noqa: PLC0415
    from cardferry.app.sharing.remote_end import RemoteEndSettings, serve_remote_end  # noqa: PLC0415
    from cardferry.pcsc.constants import MAX_READERNAME  # noqa: PLC0415
    from cardferry.transports.sockets import Access  # noqa: PLC0415
    from cardferry.wire.pcsclite.layout import OLD_NAME_SIZE  # noqa: PLC0415

    if socket is None:
        raise click.UsageError("without --stdio it needs --socket")
    logs.set_up(verbose, timed=ready is not None)
    if ready is not None:
        settle_in_background()
    service = Service(
        Access(int(mode, 8), group), slots=reader_slots, name_size=OLD_NAME_SIZE if old_names else MAX_READERNAME
    )
    wanted = RemoteEndSettings(socket, service, grace)
    lifetime.run(lambda: serve_remote_end(wanted, ready))
