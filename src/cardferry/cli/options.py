"""Options that several commands have, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.direct_link import LinkHost
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.registry import parse_host
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.service import Service
from cardferry.cli import names
from cardferry.cli.seconds import SecondsType
from cardferry.cli.tls_options import TlsFiles
from cardferry.manager import ExclusivePolicy, Settings
from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.nats.settings import parse_servers
from cardferry.transports.sockets import Access
from cardferry.transports.ssh import SshCommand
from cardferry.wire.pcsclite.layout import FIXED_SLOTS, OLD_NAME_SIZE

Function = TypeVar("Function", bound=Callable[..., Any])


class HostType(click.ParamType[HostAddress]):
    """``HOST``."""

    name = "HOST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> HostAddress:
        """Parse it; `UserError` has better words than a usage error."""
        return value if not isinstance(value, str) else parse_host(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Hosts that ssh knows, perhaps behind a user's name, and what is attached."""
        user, at, name = incomplete.rpartition("@")
        return [CompletionItem(user + at + one) for one in names.beginning(names.hosts(), name)]


class ModeType(click.ParamType[int]):
    """Access rights in octal, such as 0660."""

    name = "MODE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"0?[0-7]{3}", value):
            self.fail(f"{value!r} is not a mode in octal, such as 0660", param, ctx)
        return int(value, 8)


class SshCommandType(click.ParamType[SshCommand]):
    """A command that takes ssh's arguments."""

    name = "COMMAND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SshCommand:
        """Split it as a shell would."""
        return value if not isinstance(value, str) else SshCommand.parse(value)


def _all(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


ssh_option = click.option(
    "-e", "--ssh", type=SshCommandType(), default="ssh", help='the ssh program, as in -e "ssh -F my_config"'
)
config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="the rules: who may do what with the cards"
)
json_option = click.option("--json", "as_json", is_flag=True, help="for programs")
hosts_argument = click.argument("hosts", metavar="HOST...", type=HostType(), nargs=-1, required=True)
wait_option = click.option("--wait", is_flag=True, help="a HOST that is away at the start is waited for, for services")
memory_option = click.option(
    "--memory/--no-memory",
    default=True,
    help="over a link, answer at once what the card has said before, and check it  [default: memory]",
)
_service_options = _all(
    click.option("--mode", type=ModeType(), default="0600", show_default=True, help="the socket's access rights"),
    click.option("--group", metavar="GROUP", help="the group that gets the socket"),
    click.option(
        "--max-idle",
        type=SecondsType(zero=False),
        default=Settings().max_idle,
        show_default=True,
        metavar="S",
        help="a program that holds the card and does nothing loses it after S seconds, if others wait",
    ),
    click.option(
        "--max-hold",
        type=SecondsType(zero=False),
        default=Settings().max_hold,
        show_default=True,
        metavar="S",
        help="a program that holds the card loses it after S seconds whatever it does, if others wait",
    ),
    click.option(
        "--exclusive",
        type=click.Choice([policy.value for policy in ExclusivePolicy]),
        default=ExclusivePolicy.LEASE.value,
        show_default=True,
        help="a program's exclusive connection lasts as long as it likes, or is subject to --max-idle and --max-hold",
    ),
    click.option(
        "--record", type=click.Path(path_type=Path), metavar="FILE", help="note each call in FILE, secrets left out"
    ),
    click.option(
        "--reader",
        "reader_patterns",
        metavar="GLOB",
        multiple=True,
        shell_complete=lambda ctx, param, incomplete: names.beginning(names.readers(), incomplete),
        help="offer only readers with such names; given several times, in this order",
    ),
    click.option(
        "--reader-slots",
        type=click.IntRange(1, 1024),
        default=FIXED_SLOTS,
        show_default=True,
        metavar="N",
        help="readers that programs can see at most, up to pcsc-lite 2.4; must be what their library was built for",
    ),
    memory_option,
    click.option("--old-names", is_flag=True, help="for programs with pcsc-lite 1.6.5 to 1.8.3, whose names are short"),
)


def service_options(function: Function) -> Function:
    """The options that say how applications are served; the command gets them as ``service``."""

    @wraps(function)
    def command(
        *,
        mode: int,
        group: str | None,
        max_idle: float,
        max_hold: float,
        exclusive: str,
        record: Path | None,
        reader_patterns: tuple[str, ...],
        reader_slots: int,
        old_names: bool,
        memory: bool,
        **rest: Any,
    ) -> Any:
        service = Service(
            Access(mode, group),
            Settings(max_idle=max_idle, max_hold=max_hold, exclusive=ExclusivePolicy(exclusive)),
            record,
            reader_patterns,
            reader_slots,
            OLD_NAME_SIZE if old_names else MAX_READERNAME,
            memory=memory,
        )
        return function(service=service, **rest)

    return cast(Function, _service_options(command))


def with_tls(host: HostAddress, files: TlsFiles) -> HostAddress:
    """The host, with the files if it is one that is reached over TLS."""
    if isinstance(host, PoolHost):
        return host.reaching(lambda member: with_tls(member, files))
    return parse_host(files.into(str(host))) if isinstance(host, LinkHost) else host


def with_fleet(host: HostAddress, servers: str | None) -> HostAddress:
    """The host, with the NATS servers if it is one of a fleet and names none."""
    if servers and isinstance(host, PoolHost):
        return host.reaching(lambda member: with_fleet(member, servers), servers)
    if servers and isinstance(host, LinkHost) and isinstance(host.address, FleetAddress) and not host.address.servers:
        return LinkHost(host.address.at(parse_servers(servers)))
    return host


def ssh_host(host: HostAddress, command: str) -> SshHost:
    """The host, if it is another computer; else a `AddressSyntaxError`."""
    if not isinstance(host, SshHost):
        raise AddressSyntaxError(
            f"{command} needs another computer, reached with ssh", f"HOST is one of {', '.join(SshHost.FORMS)}"
        )
    return host
