"""``cardferry status``."""

from __future__ import annotations

import time

import click

from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Link, Running
from cardferry.cli import tables
from cardferry.cli.options import json_option
from cardferry.cli.say import say, say_json
from cardferry.link import GuestStatus
from cardferry.link.guest_flapping import FEW
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus, WaiterStatus


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show readers, cards, who holds them and who waits, and how links do."""
    silent: list[str] = []
    running = control.all_running(runtime_folder(), lambda *words: silent.append("; ".join(words)))
    for words in silent:
        say(words, err=True)
    if as_json:
        say_json(running)
    elif not running and not silent:
        say("nothing is attached or shared")
    else:
        shown: set[tuple[int, str]] = set()
        for one in running:
            _show(one, shown)


def _show(one: Running, shown: set[tuple[int, str]]) -> None:
    """Show one command.

    Args:
        shown: agents and the readers of each that were shown already, and are not shown again.
    """
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
    through = f", readers from the agent, process {one.agent}" if one.agent not in (0, one.pid) else ""
    say(f"{one.command} {one.hosts}: since {since}, {one.contexts} contexts (process {one.pid}{through})")
    for link in one.links:
        words = ", ".join(word for word in (link.way, link.over) if word)
        way = f" ({words})" if words else ""
        say(f"{link.host}{way}: {link.state}, {f'a member of {link.pool}' if link.pool else link.socket}")
        for line in link_lines(link):
            say(line, before="  ")
    for line in one.asks:
        say(f"asks the person here {line}")
    for trouble in one.troubles:
        say(f"{trouble.says}; {trouble.hint}" if trouble.hint else trouble.says)
    readers = [slot for slot in one.readers if not one.agent or (one.agent, slot.reader) not in shown]
    shown.update((one.agent, slot.reader) for slot in readers)
    if one.readers and not readers:
        say("its readers are shown above")
        return
    if one.remembered:
        say(f"{one.remembered} bytes of what the cards have said before are kept for guests")
    tables.show(
        ("reader", "card", "held by", "waiting", "clients"),
        [(slot.reader, card(slot), _holder(slot), _waiting(slot), slot.clients) for slot in readers],
    )
    if members := [(link, slot) for link in one.links if link.pool for slot in link.readers]:
        tables.show(
            ("member", "reader", "card", "held by", "waiting", "clients"),
            [(one.host, slot.reader, card(slot), _holder(slot), _waiting(slot), slot.clients) for one, slot in members],
        )


def link_lines(link: Link) -> list[str]:
    """How a link does, in words; nothing where there is no link."""
    lines = []
    if (ours := link.link) is not None:
        counters = ours.counters
        lines += [
            _traffic(ours),
            f"calls: {counters.round_trips} waited for the host, {counters.pipelined} did not, "
            f"{counters.local} were answered here; {_ahead(counters.hits, counters.waste)}",
        ]
        if counters.believed:
            lines.append(
                f"memory: {counters.believed} believed, {counters.confirmed} confirmed, {counters.refuted} refuted; "
                f"{counters.held} bytes held"
            )
        if ours.unexplained > FEW:
            lines.append(f"mended {ours.unexplained} times within an hour, and not because of the network: see its log")
    if (theirs := link.guest) is not None:
        lines += [
            f"serves {theirs.principal}, as this computer has proved{', directly' if theirs.direct else ''}",
            _traffic(theirs),
            f"{theirs.contexts} contexts, {theirs.handles} handles, {theirs.waiting} calls under way; "
            f"{_ahead(theirs.ahead_hits, theirs.ahead_waste)}",
        ]
        if theirs.believed:
            lines.append(f"memory: {theirs.believed} believed, {theirs.refuted} of them refuted")
    return lines


def _traffic(status: GuestStatus | HostSessionStatus) -> str:
    trip = "not measured yet" if status.round_trip is None else f"{status.round_trip * 1000:.1f} ms"
    messages = status.messages_sent + status.messages_received
    volume = f"{status.bytes_sent} bytes sent, {status.bytes_received} received"
    return f"round trip {trip}, {messages} messages, {volume}, {status.resumes} resumes; {status.software}"


def _ahead(hits: int, waste: int) -> str:
    return f"run ahead: {hits} used, {waste} not"


def card(slot: SlotStatus) -> list[str]:
    """What to call the card, as far as that is known, and its ATR; or why there is none to show."""
    if slot.atr:
        return [slot.card, slot.atr] if slot.card else [slot.atr]
    return ["does not answer" if "present" in slot.state else "none"]


def _holder(slot: SlotStatus) -> str:
    return "nobody" if slot.holder is None else f"{_who(slot.holder, slot.principal)} for {slot.held:.1f} s"


def _waiting(slot: SlotStatus) -> list[str]:
    return [
        f"{waiter.place}. {_who(waiter.client, waiter.principal)} for {waiter.waiting:.1f} s{expected(waiter)}"
        for waiter in slot.waiters
    ]


def _who(client: str, principal: str) -> str:
    return f"{client} as {principal}" if principal else client


def expected(waiter: WaiterStatus) -> str:
    """How long somebody will still wait, in words; nothing where that is not known."""
    return "" if waiter.expected is None else f", about {waiter.expected:.1f} s more"
