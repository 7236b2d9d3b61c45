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
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.sockets import Access
from cardferry.transports.vsock import ANY, HOST, LOOPBACK, VsockAddress, VsockError
from tests.transports.machines import ADDRESS, Machines, loopback
from tests.transports.taking import listening
from tests.transports.test_contract import User

HINT = "vsock://2:35960"


@pytest.mark.parametrize(
    ("text", "cid", "port"),
    [
        ("2:35960", HOST, 35960),
        ("//host:35960", HOST, 35960),
        ("local:1", LOOPBACK, 1),
        ("7:4294967294", 7, 0xFFFF_FFFE),
    ],
)
def test_address(text: str, cid: int, port: int) -> None:
    address = VsockAddress.parse(text, f"vsock:{text}")
    assert address == VsockAddress(cid, port)
    assert VsockAddress.parse(str(address).removeprefix("vsock:"), str(address)) == address
    assert VsockAddress.parse_listening(text, text) == address


@pytest.mark.parametrize(
    "text", ["", "2", ":1", "2:", "guest:1", "-1:1", "4294967296:1", "2:4294967295", "2:1 ", "\uff12:1", "any:0"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(AddressSyntaxError) as refused:
        VsockAddress.parse(text, f"vsock:{text}")
    assert repr(f"vsock:{text}") in refused.value.message
    assert HINT in refused.value.hint


@pytest.mark.parametrize("text", [":35960", "any:35960", "//any:35960", "4294967295:35960"])
def test_to_listen_for_all(text: str) -> None:
    assert VsockAddress.parse_listening(text, text) == VsockAddress(ANY, 35960)


async def test_kernel_without_vsock_says_what_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sockets() -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "what the kernel says")

    monkeypatch.setattr(vsock, "vsock_socket", no_sockets)
    with pytest.raises(VsockError) as refused:
        await ADDRESS.dial()
    assert "modprobe vsock" in refused.value.hint
    with pytest.raises(VsockError) as refused, ADDRESS.listen(Access()):
        pass
    assert "vsock://any:35960" in refused.value.message


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "vsock_socket", Machines(tmp_path))


@pytest.mark.usefixtures("machines")
async def test_machine_that_is_not_there() -> None:
    with pytest.raises(VsockError, match=r"no way through vsock://1:35960"):
        await ADDRESS.dial()


@pytest.mark.usefixtures("machines")
async def test_port_that_is_taken() -> None:
    with ADDRESS.listen(Access()), pytest.raises(VsockError) as refused, ADDRESS.listen(Access()):
        pass
    assert "another program" in refused.value.hint


@pytest.mark.usefixtures("machines")
async def test_a_machine_that_may_not_call_is_told_apart() -> None:
    everybody = VsockAddress(ANY, 35960)
    async with listening(VsockAddress(3, 35960)) as arrivals:
        pipe = await everybody.dial()  # none of these machines has a CID
        assert (await arrivals.get()).refusal == "the host is not for this machine"
        pipe.abort()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loopback(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    if not loopback():
        pytest.skip("not run: this kernel has no vsock loopback (CONFIG_VSOCKETS_LOOPBACK, modprobe vsock_loopback)")

    async def whole() -> None:
        async with listening(ADDRESS) as arrivals:
            near, arrival = await ADDRESS.dial(), await arrivals.get()
            far = arrival.pipe
            assert arrival.principal.name == str(LOOPBACK)
            assert not arrival.refusal
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
