"""Keys for one connection: who was told the other's certificate gets in, once, and nobody else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from cryptography import x509

from cardferry.app.agent import introductions as module
from cardferry.app.agent.introductions import Introducer, Introductions, Place, PortsError
from cardferry.app.hosts.direct import direct_dial
from cardferry.link import messages as m
from cardferry.link.guest_direct import NoDirectError
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe
from cardferry.transports.tls import one_time
from cardferry.transports.tls.one_time import NobodyThereError, OneTimeDoor, OneTimeKey
from cardferry.wire.errors import WireError
from tests.transports.test_contract import User
from tests.transports.tls import tls_lab


class Host:
    """Introduces, and notes who has come."""

    def __init__(self, introducer: Introducer) -> None:
        self.introducer = introducer
        self.pipes: list[Pipe] = []
        self.ends: list[User] = []

    async def expect(self, key: OneTimeKey) -> m.Introduction:
        return await self.introducer.introduce(key.certificate, self.serve)

    async def serve(self, pipe: Pipe) -> None:
        user = User()
        self.pipes.append(pipe)
        self.ends.append(user)
        pipe.start(user)
        await user.until(lambda: bool(user.losses))

    @property
    def open(self) -> bool:
        """Whether anybody is listened for."""
        return bool(self.introducer.introductions._open)


@asynccontextmanager
async def host(ports: str = "") -> AsyncIterator[Host]:
    async with Introductions() as introductions:
        yield Host(introductions.at(Place.of("127.0.0.1", ports)))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def talks(found: m.Introduction, key: OneTimeKey) -> bool:
    """Whether whoever dials is let in: it is told so by the host's first word, or by the end."""
    pipe = await one_time.dial(found.address, found.port, key, found.certificate)
    user = User()
    pipe.start(user)
    pipe.write(b"hello")
    await user.until(lambda: bool(user.losses) or bool(user.data))
    pipe.abort()
    return bool(user.data)


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_who_was_introduced_comes_in_and_the_port_is_closed(loop: str) -> None:
    async def whole() -> None:
        async with host() as there:
            key = OneTimeKey()
            found = await there.expect(key)
            pipe = await one_time.dial("127.0.0.1", found.port, key, found.certificate)
            await until(lambda: there.pipes)
            there.pipes[0].write(b"welcome")
            user = User()
            pipe.start(user)
            await user.until(lambda: user.data == b"welcome")
            await until(lambda: not there.open)
            with pytest.raises(NobodyThereError, match="cannot be reached"):
                await one_time.dial("127.0.0.1", found.port, key, found.certificate)
            pipe.write(b"still here")
            await until(lambda: there.ends[0].data == b"still here")
            pipe.abort()

    tls_lab.run(loop, whole())


def test_a_key_is_good_for_one_connection(loop: str) -> None:
    async def whole() -> None:
        async with host() as there:
            key, other = OneTimeKey(), OneTimeKey()
            found = await there.expect(key)
            await there.expect(other)  # so that the port stays open
            first = await one_time.dial("127.0.0.1", found.port, key, found.certificate)
            await until(lambda: there.pipes)
            assert not await talks(found, key)
            assert len(there.pipes) == 1
            first.abort()

    tls_lab.run(loop, whole())


def test_another_key_is_turned_away(loop: str) -> None:
    async def whole() -> None:
        async with host() as there:
            found = await there.expect(OneTimeKey())
            assert not await talks(found, OneTimeKey())
            assert not there.pipes
            assert there.open

    tls_lab.run(loop, whole())


def test_a_certificate_without_its_key_is_of_no_use() -> None:
    """Who has read along over ssh knows the certificates, and no key."""

    async def whole() -> None:
        async with host() as there:
            expected, mine = OneTimeKey(), OneTimeKey()
            found = await there.expect(expected)
            mine._pem = mine._pem.partition(b"-----BEGIN CERTIFICATE")[0] + x509_pem(expected.certificate)
            with pytest.raises(ssl.SSLError):
                mine.context([found.certificate], server=False)
            assert not there.pipes

    tls_lab.run("uvloop", whole())


def x509_pem(certificate: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def test_a_host_that_is_another_one_is_told_nothing(loop: str) -> None:
    async def whole() -> None:
        async with host() as there:
            key = OneTimeKey()
            found = await there.expect(key)
            with pytest.raises(NobodyThereError, match="certificate of somebody else"):
                await one_time.dial("127.0.0.1", found.port, key, OneTimeKey().certificate)
            assert not there.pipes

    tls_lab.run(loop, whole())


def test_who_does_not_come_in_time_does_not_come_in(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPIRY", 0.05)

    async def whole() -> None:
        async with host() as there:
            key = OneTimeKey()
            found = await there.expect(key)
            assert there.open
            await until(lambda: not there.open)
            with pytest.raises(NobodyThereError):
                await one_time.dial("127.0.0.1", found.port, key, found.certificate)
            assert (await there.expect(key)).certificate != found.certificate, "the host's key is a new one, too"

    tls_lab.run(loop, whole())


def test_one_port_serves_one_after_the_other_and_several_at_once(loop: str) -> None:
    async def whole() -> None:
        port = tls_lab.free_port()
        async with host(str(port)) as there:
            for _ in range(3):
                keys = [OneTimeKey() for _ in range(3)]
                found = [await there.expect(key) for key in keys]
                assert {one.port for one in found} == {port}
                pipes = await asyncio.gather(
                    *(one_time.dial("127.0.0.1", port, key, found[0].certificate) for key in keys)
                )
                await until(lambda: len(there.pipes) == 3)
                there.pipes.clear()
                for pipe in pipes:
                    pipe.abort()

    tls_lab.run(loop, whole())


def test_a_port_that_is_taken_is_said(loop: str) -> None:
    async def whole() -> None:
        async with host() as one:
            taken = (await one.expect(OneTimeKey())).port
            async with host(str(taken)) as other:
                with pytest.raises(OSError, match="in use"):
                    await other.expect(OneTimeKey())
            async with host(f"{taken}-{taken + 3}") as other:
                assert taken < (await other.expect(OneTimeKey())).port <= taken + 3

    tls_lab.run(loop, whole())


@pytest.mark.parametrize(
    "change",
    [
        lambda certificate: b"garbage",
        lambda certificate: certificate.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\3", 1),  # of no version that there is
        lambda certificate: certificate[:-1],
    ],
)
def test_what_is_no_certificate_opens_no_port(change: Callable[[bytes], bytes]) -> None:
    async def whole() -> None:
        async with host() as there:
            with pytest.raises(WireError):
                await there.introducer.introduce(change(OneTimeKey().certificate), there.serve)
            await until(lambda: not there.open)

    tls_lab.run("uvloop", whole())


def test_a_door_knows_who_is_expected_and_who_is_here() -> None:
    door, key = OneTimeDoor(OneTimeKey()), OneTimeKey()
    certificate = x509.load_der_x509_certificate(key.certificate)
    assert door.admitted(certificate)[1]
    name = door.expect(key.certificate)
    assert door.admitted(certificate) == (name, "")
    door.took(name)
    assert door.admitted(certificate) == (name, "")
    assert not door._expected
    door.left(name)
    assert door.admitted(certificate)[1]


@pytest.mark.parametrize("text", ["x", "0", "70000", "10-5", "1-2-3", "-1", "7765-"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(PortsError) as caught:
        Place.of("10.0.0.1", text)
    assert Place.of("10.0.0.1", "7765-7774") == ("10.0.0.1", 7765, 7774), caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "laptop", ""])
async def test_an_address_that_a_host_tells_must_be_of_another_computer(address: str) -> None:
    """Where ssh goes through a jump host: nothing on this computer is dialled because a host says so."""

    class Connector:
        def peer(self) -> str:
            return ""

    async def ask(certificate: bytes) -> m.Introduction:
        return m.Introduction(address, 1, OneTimeKey().certificate)

    with pytest.raises(NoDirectError):
        await direct_dial(Connector())(ask)  # type: ignore[arg-type]


async def test_a_refusal_is_passed_on() -> None:
    async def ask(certificate: bytes) -> m.Introduction:
        return m.Introduction("", 0, refusal="not today")

    with pytest.raises(CardferryError, match="not today"):
        await direct_dial(None)(ask)  # type: ignore[arg-type]
