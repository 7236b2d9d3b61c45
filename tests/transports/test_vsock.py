"""Addresses, refusals and errors of vsock; `test_contract` holds its pipes to what all pipes promise."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from cardferry.transports import vsock
from cardferry.transports.vsock import ANY, HOST, LOOPBACK, VsockAddress, VsockError, VsockPipe
from tests.transports.machines import ADDRESS, Machines, loopback
from tests.transports.test_contract import User


@pytest.mark.parametrize(
    ("text", "cid", "port"),
    [
        ("2:35960", HOST, 35960),
        ("host:35960", HOST, 35960),
        ("local:1", LOOPBACK, 1),
        ("any:0", ANY, 0),
        ("4294967295:4294967294", ANY, 4294967294),
    ],
)
def test_address(text: str, cid: int, port: int) -> None:
    assert VsockAddress.parse(text) == VsockAddress(cid, port)
    assert VsockAddress.parse(str(VsockAddress(cid, port)).removeprefix("vsock://")) == VsockAddress(cid, port)


@pytest.mark.parametrize(
    "text", ["", "2", ":1", "2:", "guest:1", "-1:1", "4294967296:1", "2:4294967295", "2:1 ", "\uff12:1"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="CID:PORT"):
        VsockAddress.parse(text)


def failing(code: int) -> Callable[[], socket.socket]:
    """A kernel that makes no such sockets."""

    def make() -> socket.socket:
        raise OSError(code, "what the kernel says")

    return make


async def test_kernel_without_vsock_says_what_to_load() -> None:
    with pytest.raises(VsockError) as refused:
        await vsock.dial(ADDRESS, failing(errno.EAFNOSUPPORT))
    assert "modprobe vsock" in refused.value.hint
    with pytest.raises(VsockError) as refused:
        vsock.bound(ADDRESS, failing(errno.EAFNOSUPPORT))
    assert str(ADDRESS) in refused.value.message


async def test_machine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VsockError, match=r"no way through vsock://1:35960"):
        await vsock.dial(ADDRESS, Machines(tmp_path))


async def test_port_that_is_taken(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    with vsock.bound(ADDRESS, machines), pytest.raises(VsockError) as refused:
        vsock.bound(ADDRESS, machines)
    assert "another program" in refused.value.hint


async def test_only_machines_that_are_allowed_may_call(tmp_path: Path) -> None:
    machines = Machines(tmp_path)  # none of them has a CID
    calls: list[VsockPipe] = []
    async with vsock.listen(vsock.bound(ADDRESS, machines), calls.append, allowed=[3]):
        user = User()
        pipe = await vsock.dial(ADDRESS, machines)
        pipe.start(user)
        await user.until(lambda: bool(user.losses))
    assert not calls


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loopback(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    if not loopback():
        pytest.skip("not run: this kernel has no vsock loopback (CONFIG_VSOCKETS_LOOPBACK, modprobe vsock_loopback)")

    async def whole() -> None:
        accepted: asyncio.Future[VsockPipe] = asyncio.get_running_loop().create_future()
        async with vsock.listen(vsock.bound(ADDRESS), accepted.set_result, allowed=[LOOPBACK]):
            near, far = await vsock.dial(ADDRESS), await accepted
            assert far.cid == LOOPBACK
            one, two = User(), User()
            near.start(one)
            far.start(two)
            near.write(b"there")
            far.write(b"and back")
            await two.until(lambda: two.data == b"there")
            await one.until(lambda: one.data == b"and back")
            near.close()
            await two.until(lambda: bool(two.losses))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(whole())
