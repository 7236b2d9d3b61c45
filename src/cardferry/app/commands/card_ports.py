"""``attach --native`` and ``--qemu``: readers for those who come to no socket, other resource managers and machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.sources import LOCAL_PCSCD, check_pcscd
from cardferry.app.runtime.vpcd_slots import vpcd_ports
from cardferry.backoff import Backoff
from cardferry.frontends.card_ports import CardPort, CardPorts
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.interface import ResourceManager
from cardferry.system.peers import user_name

#: Bytes of the longest path of a Unix socket (unix(7)).
_LONGEST_PATH: Final = 107
#: s between attempts to reach the local pcscd, at first and at most.
_PAUSES: Final = (0.5, 5.0)


class CardPortsError(UserError):
    """What was asked for does not go together."""

    exit_code = 2


def check_card_ports(
    hosts: Sequence[HostAddress], native_ports: Sequence[int], qemu: Path | None, *, native: bool
) -> None:
    """See that what options ask for goes together; raises `CardPortsError`."""
    native = native or bool(native_ports)
    if native and qemu is not None:
        raise CardPortsError(
            "--native and --qemu are two ways for one attach",
            "give one of them here, and the other one to a second attach with a --socket of its own",
        )
    if native and LOCAL_PCSCD in hosts:
        raise CardPortsError(
            f"the readers of {LOCAL_PCSCD} are in this computer's pcscd already",
            "name the computer that has the reader: cardferry attach HOST --native",
        )
    if qemu is not None and len(os.fsencode(qemu)) > _LONGEST_PATH:
        raise CardPortsError(
            f"{qemu} is longer than the {_LONGEST_PATH} bytes of a socket's path", "have QEMU listen at a shorter path"
        )


async def card_ports(
    hosts: Sequence[HostAddress], native_ports: Sequence[int], qemu: Path | None, *, native: bool
) -> tuple[CardPort, ...]:
    """The ports that options ask for; raises `UserError` when that cannot be."""
    check_card_ports(hosts, native_ports, qemu, native=native)
    if native or native_ports:
        return await _native(native_ports)
    if qemu is None:
        return ()
    from cardferry.frontends.qemu import QemuPort  # noqa: PLC0415 - only where it is asked for

    return (QemuPort(qemu),)


async def _native(ports: Sequence[int]) -> tuple[CardPort, ...]:
    from cardferry.frontends.vpcd import VpcdPort  # noqa: PLC0415 - only where it is asked for

    chosen = ports or vpcd_ports()
    await check_pcscd(LOCAL_PCSCD.path)
    return tuple(VpcdPort(port) for port in chosen)


@asynccontextmanager
async def carried(manager: ResourceManager, ports: Sequence[CardPort]) -> AsyncIterator[None]:
    """Show the manager's readers at the ports for the block."""
    if not ports:
        yield
        return
    principal = Principal(PrincipalKind.LOCAL_USER, user_name(os.getuid()))
    async with asyncio.TaskGroup() as tasks:
        own = [tasks.create_task(CardPorts(manager, principal, ports).run(), name="readers at ports")]
        if any(port.in_pcscd for port in ports):
            own.append(tasks.create_task(_keep_pcscd(), name="pcscd is kept"))
        try:
            yield
        finally:
            for task in own:
                task.cancel()


async def _keep_pcscd() -> None:
    """Be connected to the local pcscd: systemd starts it for whoever connects, and it ends when nobody is.

    Its virtual readers are there only while it runs; a program would find them empty.
    """
    backoff = Backoff(*_PAUSES)
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(LOCAL_PCSCD.path)
        except OSError:
            pass
        else:
            await reader.read()
            writer.close()
        await asyncio.sleep(backoff.pause())
