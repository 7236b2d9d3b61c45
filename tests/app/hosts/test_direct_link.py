"""Links without ssh: what a person is told when there can be none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.app.commands.attach import attached
from cardferry.app.doctor import there
from cardferry.app.doctor.finding import Finding, State
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment, NothingDirectError
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.direct_link import LinkedHostError, LinkHost, linked_directly
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.hosts.ssh_link import RefusedError
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.link import LinkState
from cardferry.manager import LocalManager
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import HOW_TO_JOIN, Address
from cardferry.transports.errors import NoHostError, NotCardferryError
from cardferry.transports.exec import ExecAddress, ExecError, ExecNotStartedError
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.sockets import PathUnusableError
from cardferry.transports.ssh import SshCommand
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import VsockAddress
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.greeting import Bye, Reason
from tests.app.agent.at_work import until
from tests.app.agent.test_listeners import open_at
from tests.lab.namespaces import PLAIN_PYTHON
from tests.link.desk import READER
from tests.transports.queues import full_queue
from tests.transports.test_contract import BRIDGE


async def refusal(address: Address) -> UserError:
    """What a person is told."""
    with pytest.raises(UserError) as raised:
        async with linked_directly(address):
            pass
    return raised.value


@asynccontextmanager
async def listener_that_says(path: Path, said: bytes, *, closes: bool = True) -> AsyncIterator[None]:
    """Somebody else listens at ``path``: says something, and may hang up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        if not closes:
            await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield


async def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "link", tmp_path / "nowhere" / "link"):
        told = await refusal(UnixAddress(path))
        assert (type(told), told.exit_code) == (NoHostError, 34)
        assert f"there is no socket at {path}" in told.message
        assert f"cardferry host --listen unix:{path}" in told.hint


async def test_a_folder_in_the_path_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "there is no socket" in (await refusal(UnixAddress(tmp_path / "file" / "link"))).message


async def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert f"nobody listens at {path}" in told.message
    assert f"--listen unix:{path}" in told.hint


async def test_a_full_queue_is_not_nobody(tmp_path: Path) -> None:
    path = tmp_path / "link"
    with full_queue(path):
        told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert told.message == f"the queue of connections at {path} is full: who listens there takes none"


async def test_a_hint_can_be_given_to_a_shell(tmp_path: Path) -> None:
    told = await refusal(UnixAddress(tmp_path / "my link; reboot"))
    assert f"cardferry host --listen 'unix:{tmp_path}/my link; reboot';" in told.hint


async def test_not_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.write_text("precious")
    told = await refusal(UnixAddress(path))
    assert (type(told), told.message) == (NoHostError, f"{path} is not a socket")
    assert path.read_text() == "precious"


async def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cardferry.transports.unix.dial", dial)
    told = await refusal(UnixAddress(tmp_path / "link"))
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert "may not use" in told.message
    assert "--mode" in told.hint


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    told = await refusal(UnixAddress(tmp_path / ("x" * 107)))
    assert (type(told), told.exit_code) == (PathUnusableError, 10)
    assert "--listen" in told.hint


async def test_a_pcsc_lite_socket_is_told_from_a_link(tmp_path: Path) -> None:
    path = tmp_path / "pcscd.comm"
    with ListeningSocket(path) as listening:
        async with LocalManager([]) as manager, PcscliteFrontend(manager, listening):
            told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (NotCardferryError, 35)
    assert "pcsc-lite's protocol" in told.message
    assert f"(process {os.getpid()})" in told.message
    assert f"pcscd:{path}" in told.hint


@pytest.mark.parametrize("said", [b"", b"220 mail.example.org ESMTP\r\n", bytes(4096)])
async def test_somebody_else_listens(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "link"
    async with listener_that_says(path, said):
        told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (NotCardferryError, 35)
    assert f"(process {os.getpid()}) at {path} does not speak" in told.message
    assert "--listen" in told.hint


async def test_somebody_who_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnixAddress, "GREETING", 0.05)
    path = tmp_path / "link"
    async with listener_that_says(path, b"", closes=False):
        told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert "does not say hello" in told.message


@pytest.mark.parametrize(
    ("bye", "says", "hint"),
    [
        (Bye(Reason.VERSION, "one end speaks version 1 of the link, the other 3 to 4"), "too far from this", "version"),
        (Bye(Reason.FULL, "the host serves 256 guests, and no more"), "256 guests", "status"),
        (Bye(Reason.REFUSED, "the host is not for this machine"), "not for this machine", "status"),
    ],
)
async def test_a_host_that_does_not_want_us(tmp_path: Path, bye: Bye, says: str, hint: str) -> None:
    path = tmp_path / "link"
    async with listener_that_says(path, encode(Kind.BYE, 0, 0, bye.encode()), closes=False):
        told = await refusal(UnixAddress(path))
    assert (type(told), told.exit_code) == (RefusedError, 54)
    assert says in told.message
    assert hint in told.hint


async def test_no_way_through_vsock() -> None:
    told = await refusal(VsockAddress(0xFFFF_FFF0, 35960))
    assert told.exit_code == 33


async def test_a_command_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await refusal(ExecAddress(("no-such-thing",)))
    assert (type(told), told.exit_code) == (ExecNotStartedError, 36)
    told = await refusal(ExecAddress(("sh", "-c", "echo no such box >&2; exit 1")))
    assert (type(told), told.exit_code) == (ExecError, 36)
    assert "no such box" in told.message
    for script in ("echo Welcome to box; exec cat", "exit 0"):
        told = await refusal(ExecAddress(("sh", "-c", script)))
        assert (type(told), told.exit_code) == (NotCardferryError, 35)
        assert told.message == f"what `sh -c '{script}'` prints is not the protocol of links"
        assert "cardferry host --stdio" in told.hint
    monkeypatch.setattr(ExecAddress, "GREETING", 0.05)
    told = await refusal(ExecAddress(("cat", "/dev/zero")))
    assert type(told) is NotCardferryError
    told = await refusal(ExecAddress(("sleep", "60")))
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert "does not say hello" in told.message
    assert "try it by itself: sleep 60" in told.hint


async def test_who_stands_in_for_the_host_for_a_while_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "link"
    async with asyncio.timeout(30):
        async with open_at(UnixAddress(path)) as host:
            first = linked_directly(UnixAddress(path))
            guest = await first.__aenter__()
            assert len(host.status.guests) == 1
        async with listener_that_says(path, b"220 mail.example.org ESMTP\r\n"):
            await until(lambda: guest.error is not None)
        path.unlink(missing_ok=True)
        async with open_at(UnixAddress(path)):
            await until(lambda: guest.state is LinkState.UP and bool(guest.snapshot.readers))
            await first.__aexit__(None, None, None)


async def test_what_only_links_is_no_place_with_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(LinkedHostError) as raised:
        async with attached(
            Attachment((LinkHost(UnixAddress(Path("/run/link"))),), socket=tmp_path / "card", link=False)
        ):
            pass
    assert "without --no-link" in raised.value.hint
    assert raised.value.exit_code == 2


def test_a_hint_with_a_command_can_be_given_to_a_shell() -> None:
    with pytest.raises(LinkedHostError) as raised:
        LinkHost(ExecAddress(("docker", "exec", "-i", "box"))).open_readers(Way(Path()))
    assert raised.value.hint == "cardferry attach 'exec:docker exec -i box', without --no-link"


# --- doctor


async def examined(address: Address, folder: Path) -> list[Finding]:
    return [finding async for finding in there.host(LinkHost(address), SshCommand(), folder, [], None)]


async def test_the_doctor_goes_the_whole_way(tmp_path: Path) -> None:
    path = tmp_path / "link"
    async with open_at(UnixAddress(path)):
        found = await examined(UnixAddress(path), tmp_path)
        command = ExecAddress((PLAIN_PYTHON, "-IS", str(BRIDGE), str(path)))
        assert [one.state for one in await examined(command, tmp_path)] == [State.OK, State.OK]
    assert [finding.state for finding in found] == [State.OK] * len(found)
    assert (found[0].probe, found[0].says) == (f"link to unix:{path}", "it works: cardferry is at both ends")
    assert READER in found[1].says


async def test_the_doctor_says_what_a_person_would_be_told(tmp_path: Path) -> None:
    (found,) = await examined(UnixAddress(tmp_path / "link"), tmp_path)
    assert found.state is State.PROBLEM
    assert "there is no socket" in found.says
    assert "--listen" in found.hint


@pytest.mark.parametrize(
    ("host", "link", "says"),
    [(LinkHost(UnixAddress(Path("/run/link"))), True, "reached with ssh"), (SshHost("laptop"), False, "--no-link")],
)
def test_a_direct_connection_is_beside_a_link_over_ssh_or_there_is_none(
    host: HostAddress, link: bool, says: str
) -> None:
    with pytest.raises(NothingDirectError, match=says):
        Attachment((host,), link=link, direct=True).check()
    Attachment((LinkHost(UnixAddress(Path("/run/link"))), SshHost("laptop")), direct=True).check()
    Attachment((host,), link=link).check()


def test_who_is_not_let_in_hears_how_to_join_only_where_guests_join() -> None:
    files = ("/ca", "/cert", "/key")
    assert TlsAddress("a").how_to_come_in == FleetAddress("LAB-7").how_to_come_in == HOW_TO_JOIN
    for other in (TlsAddress("a", files=files), FleetAddress("a", files=files), UnixAddress(Path("/run/x"))):
        assert "cardferry status" in other.how_to_come_in
