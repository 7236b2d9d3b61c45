"""The demo as a person sees it: who plays, what the guest did, what went over the wire, how long it took."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import msgspec
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cardferry.app.demo.programs import Guest, Step
from cardferry.app.demo.stage import DemoError, Stage, cardferry
from cardferry.pcsc.text import shown
from cardferry.policy.recorded import CallRecord

_BAR = 36
_LINES = 9
_SECRETS_NOTE = "PINs and data are never recorded, only what the commands are."


def tell(console: Console) -> None:
    """Play the whole demo on a console. Raises `DemoError` when a part does not start or a step fails."""
    start = time.perf_counter()
    console.print()
    console.print(
        Panel(
            "A card is in the [bold]host[/]. The programs run on the [bold]guest[/] and do not know it.",
            title="cardferry demo",
            border_style="green",
            expand=False,
        )
    )
    with Stage() as stage:
        socket = stage.guest.folder / "cardferry.sock"
        records = stage.guest.folder / "calls"
        _attach(stage, socket, records)
        _introduce(console, stage)
        guest = Guest(stage.guest, socket)
        said = " ".join(word for word in stage.source if not word.startswith(("-", "/")))
        console.print(f"\n[dim]guest$[/] [bold]cardferry attach {said}[/]\n")
        steps = [guest.list_readers(), guest.sign(), guest.read_certificate(), guest.verify()]
        for number, step in enumerate(steps, 1):
            _show(console, number, step)
        calls = [msgspec.json.decode(line, type=CallRecord) for line in records.read_bytes().splitlines()]
        _show_calls(console, calls)
        _compare(console, stage, guest, socket)
    console.print(f"\n[dim]Everything has been cleared away. The demo took {time.perf_counter() - start:.0f} s.[/]")


def _attach(stage: Stage, socket: Path, records: Path) -> None:
    options: list[str | Path] = ["--socket", socket, "--record", records]
    try:
        stage.start(stage.guest, [*cardferry(), "attach", *stage.source, *options], b"export ")
    except DemoError as error:
        if stage.plain is None:
            raise
        stage.connect_directly(error.cause)
        stage.start(stage.guest, [*cardferry(), "attach", *stage.source, *options], b"export ")


def _introduce(console: Console, stage: Stage) -> None:
    table = Table.grid(padding=(0, 2))
    for part, player in stage.cast:
        table.add_row(Text(part, style="dim"), player)
    console.print(table)


def _show(console: Console, number: int, step: Step) -> None:
    console.print(f"[bold green]{number}[/]  [bold]{step.title}[/]  [dim]{step.seconds * 1000:.0f} ms[/]")
    console.print(Text.assemble("   ", ("guest$", "dim"), " ", shown(step.command)), soft_wrap=True)
    for line in step.output[:6]:
        console.print(f"   {shown(line)}", highlight=False, markup=False)
    console.print()


def _show_calls(console: Console, calls: list[CallRecord]) -> None:
    transmits = [call for call in calls if call.call == "transmit"]
    signed = next((n for n, call in enumerate(transmits, 1) if call.what.startswith("GENERAL AUTHENTICATE")), _LINES)
    signing = transmits[max(0, signed - _LINES) : signed]
    table = Table(title="What the card heard while it signed", title_justify="left", title_style="bold", box=None)
    table.add_column("command", no_wrap=True)
    table.add_column("answer", no_wrap=True)
    table.add_column("ms", justify="right")
    for call in signing:
        table.add_row(Text(shown(call.what)), Text(shown(call.outcome)), f"{call.seconds * 1000:.1f}")
    console.print(table)
    counts = Counter(call.call for call in calls)
    total = sum(call.seconds for call in calls)
    words = ", ".join(f"{number} {call}" for call, number in counts.most_common(5))
    console.print(
        f"[dim]{len(calls)} calls reached the resource manager ({words}), {total * 1000:.0f} ms of card and network "
        f"time in all.\nQuestions about readers and their states were answered on the guest. {_SECRETS_NOTE}[/]\n",
        highlight=False,
    )


def _compare(console: Console, stage: Stage, guest: Guest, socket: Path) -> None:
    if stage.plain is None or not guest.opensc:
        return
    times: list[tuple[str, float]] = []
    times.append(("through cardferry", guest.all_tokens(socket)))
    forwarded = stage.guest.folder / "plain.sock"
    forward = [*stage.plain[:-1], "-v", "-L", f"{forwarded}:{stage.pcscd}", stage.plain[-1]]
    stage.start(stage.guest, forward, b"Entering interactive session", "stderr")
    times.append(("through plain ssh -N -L", guest.all_tokens(forwarded)))
    slowest = max(seconds for _, seconds in times)
    console.print("[bold]The same program, pkcs11-tool --list-slots[/]")
    for name, seconds in times:
        bar = "█" * max(1, round(_BAR * seconds / slowest))
        console.print(f"   {name:<24} [green]{bar}[/] {seconds:.2f} s", highlight=False)
