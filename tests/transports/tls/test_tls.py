"""TLS between a guest and a host: who comes in, who joins, and that those who do not disturb nobody."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cardferry.pcsc.errors import UserError
from cardferry.transports import tls
from cardferry.transports.base import Arrival
from cardferry.transports.errors import AddressSyntaxError, RevokedError
from cardferry.transports.registry import parse_listening
from cardferry.transports.tls import admission as module
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls import dialling, door
from cardferry.transports.tls.address import NotListeningError, TlsAddress
from cardferry.transports.tls.dialling import joined_host
from cardferry.transports.tls.errors import InvitationError, NotTlsError, TlsError
from cardferry.transports.tls.host import own_host
from cardferry.transports.tls.identity import Line, context
from cardferry.transports.tls.inside import TlsInside
from cardferry.wire import enrolment as e
from tests.transports.taking import listening
from tests.transports.test_contract import User
from tests.transports.tls import tls_lab
from tests.transports.tls.tls_lab import Infrastructure


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsAddress:
    """Was joined by this account; nobody listens there yet."""
    return tls_lab.joined_port(tmp_path, monkeypatch)


def invitation(address: TlsAddress, name: str = "build2") -> Line:
    host = own_host()
    secret = host.guests.invite(name, 60.0, c.GUEST_LIFE.total_seconds())
    return Line(f"tls://{address.place}", name, c.fingerprint(host.authority().certificate), secret)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def lost(pipe: Any) -> Exception | None:
    """Why a pipe is lost."""
    user = User()
    pipe.start(user)
    await user.until(lambda: bool(user.losses))
    return user.losses[0]


async def comes_in(address: TlsAddress, arrivals: asyncio.Queue[Arrival]) -> Arrival:
    """A guest that has done nothing wrong."""
    pipe = await address.dial()
    async with asyncio.timeout(10):
        arrival = await arrivals.get()
    pipe.abort()
    return arrival


# --- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("//laptop", TlsAddress("laptop")),
        ("//Laptop.example:1", TlsAddress("laptop.example", 1)),
        ("laptop:65535", TlsAddress("laptop", 65535)),
        ("//[2001:db8::1]:7000", TlsAddress("2001:db8::1", 7000)),
        ("//[::1]", TlsAddress("::1")),
        ("//a?ca=/c%20a&cert=/b&key=/k", TlsAddress("a", files=("/c a", "/b", "/k"))),
    ],
)
def test_each_form_of_an_address(text: str, address: TlsAddress) -> None:
    parsed = TlsAddress.parse(text, text)
    assert parsed == address
    assert TlsAddress.parse(str(parsed).removeprefix("tls:"), "") == address
    assert parse_listening(parsed.written(False)) == address


@pytest.mark.parametrize(
    "text", ["", "//", "//:7764", "//a:0", "//a:65536", "//a/b", "//a b", "//a?ca=/b", "//a?ca=b&cert=c&key=d", "//-a"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressSyntaxError):
        TlsAddress.parse(text, text)


async def test_where_nobody_can_listen(address: TlsAddress) -> None:
    with socket.create_server(("127.0.0.1", address.port)):
        with pytest.raises(NotListeningError, match="cannot listen") as raised, tls_lab.open_listener(address):
            pass
        assert (raised.value.exit_code, "choose another" in raised.value.hint) == (13, True)
    with pytest.raises(NotListeningError), tls_lab.open_listener(TlsAddress("192.0.2.1", address.port)):
        pass


async def test_all_addresses_of_this_computer(address: TlsAddress) -> None:
    async with listening(TlsAddress("", address.port)) as arrivals:
        assert (await comes_in(address, arrivals)).name == "build1 at 127.0.0.1"


# --- joining


async def test_a_guest_joins_once_and_comes_in(address: TlsAddress, caplog: pytest.LogCaptureFixture) -> None:
    line = invitation(address)
    async with listening(address) as arrivals:
        assert await dialling.join(line, address) == "build2"
        assert str((await comes_in(address, arrivals)).principal) == "tls:build2"
        with pytest.raises(InvitationError, match="no such invitation") as raised:
            await dialling.join(line, address)
        assert "cardferry invite NAME" in raised.value.hint
        assert str((await comes_in(address, arrivals)).principal) == "tls:build2", "what is there is not touched"
    assert "build2 has joined, from 127.0.0.1" in caplog.text
    assert own_host().guests.wrong.count == 1
    known = own_host().guests.known["build2"]
    assert (known.address, known.software[:9]) == ("127.0.0.1", "cardferry")


async def test_guesses_are_counted_and_after_five_none_is_looked_at(
    address: TlsAddress, caplog: pytest.LogCaptureFixture
) -> None:
    line = invitation(address)
    async with listening(address):
        for _ in range(door._MOST_WRONG):
            with pytest.raises(InvitationError, match="no such invitation"):
                await dialling.join(Line(line.address, line.name, line.fingerprint, "a guess"), address)
        with pytest.raises(InvitationError, match="too many wrong secrets"):
            await dialling.join(line, address)
        assert own_host().guests.wrong.count == door._MOST_WRONG
        assert [one.name for one in own_host().guests.invitations] == ["build2"], "it is not used up by that"
    assert "127.0.0.1: a wrong secret (5 from there)" in caplog.text
    async with listening(address):  # a new process, which counts anew
        assert await dialling.join(line, address) == "build2"


async def test_addresses_that_guess_are_forgotten_after_a_while_and_not_too_many(
    address: TlsAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_lab.open_listener(address) as listener:
        at_door: door.HostDoor = listener._admission._door  # type: ignore[attr-defined]
    for number in range(door._MOST_ADDRESSES + 10):
        at_door._count(str(number))
    assert len(at_door._wrong) == door._MOST_ADDRESSES
    for _ in range(door._MOST_WRONG):
        at_door._count("10.0.0.2")
    assert at_door.too_many("10.0.0.2")
    monkeypatch.setattr(door, "_FORGIVEN", -1.0)
    assert not at_door.too_many("10.0.0.2")
    assert at_door._count("10.0.0.2") == 1


async def test_nothing_is_told_to_another_host_than_the_lines(address: TlsAddress) -> None:
    line = invitation(address)
    other = Line(line.address, line.name, bytes(32), line.secret)
    async with listening(address):
        with pytest.raises(TlsError, match="not the host that this line is from"):
            await dialling.join(other, address)
        assert own_host().guests.wrong.count == 0
        assert await dialling.join(line, address) == "build2"


async def test_a_guest_cannot_pass_for_the_host_to_those_who_join(address: TlsAddress) -> None:
    """It knows the authority's certificate, and has one from it; but one for guests."""
    line, folder = invitation(address), joined_host(address).folder
    made = context(True, folder / "certificate.pem", folder / "key.pem", [e.ENROLMENT])
    made.verify_mode = ssl.CERT_NONE
    told: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(e.encode(e.Greeting(c.der(own_host().authority().certificate))))
        told.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", address.port, ssl=made):
        with pytest.raises(TlsError, match="not the host"):
            await dialling.join(line, address)
        with pytest.raises(TlsError):
            await address.dial()
        await until(lambda: told)
    assert told == [b""]


@pytest.mark.parametrize("said", [b"", b"nothing\n", b"x" * 9000, e.encode(e.Greeting(b"no certificate"))])
async def test_who_gives_no_certificates(address: TlsAddress, said: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "cardferry" / "tls" / "host"
    with tls_lab.open_listener(address):
        made = context(True, folder / "certificate.pem", folder / "key.pem", [e.ENROLMENT])
    made.verify_mode = ssl.CERT_NONE

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", address.port, ssl=made):
        with pytest.raises((NotTlsError, TlsError)):
            await dialling.join(invitation(address), address)


async def test_who_wants_a_certificate_and_asks_in_no_way_that_is_known(
    address: TlsAddress, caplog: pytest.LogCaptureFixture
) -> None:
    made = context(False, None, None, [e.ENROLMENT])
    made.verify_mode = ssl.CERT_NONE
    questions: list[tuple[bytes, str]] = [
        (b"GET /\n", "is not cardferry"),
        (b"x" * 9000, "is not cardferry"),
        (e.encode(e.Join("guess", b"no request")), "no request for a certificate"),
        (e.encode(e.Renew()), "no certificate to renew"),
    ]
    async with listening(address) as arrivals:
        for said, told in questions:
            reader, writer = await asyncio.open_connection("127.0.0.1", address.port, ssl=made)
            writer.write(said)
            with suppress(ConnectionError, ssl.SSLError):
                await reader.read()
            writer.transport.abort()
            await until(lambda: told in caplog.text)  # noqa: B023
        assert (await comes_in(address, arrivals)).refusal == ""


async def test_who_joins_with_the_same_name_takes_the_place_of_the_one_before(address: TlsAddress) -> None:
    async with listening(address) as arrivals:
        pipe = await address.dial()
        before = (await arrivals.get()).pipe
        assert await dialling.join(invitation(address, "build1"), address) == "build1"
        assert isinstance(await asyncio.wait_for(lost(before), 5), RevokedError)
        assert (await comes_in(address, arrivals)).refusal == ""
        pipe.abort()


async def test_a_host_that_cannot_write_gives_no_certificate_and_goes_on(
    address: TlsAddress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = invitation(address)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with listening(address) as arrivals:
        with monkeypatch.context() as patched:
            patched.setattr("cardferry.transports.tls.guests.write_private", full)
            with pytest.raises(InvitationError, match="cannot give one now"):
                await dialling.join(line, address)
            assert (await comes_in(address, arrivals)).refusal == ""
            patched.setattr(door.HostDoor, "context", full)
            with pytest.raises(UserError):
                await address.dial()
        assert "nobody can come in: [Errno 28]" in caplog.text
        assert await dialling.join(line, address) == "build2", "it is not used up"


# --- certificates that expire, and those of others


async def test_a_certificate_is_renewed_on_the_way(address: TlsAddress) -> None:
    tls_lab.join(address, "build1", timedelta(seconds=6))
    host = joined_host(address)
    first = host.certificate()
    async with listening(address) as arrivals:
        pipe = await address.dial()
        assert host.certificate() == first, "that is not due yet"
        assert await asyncio.wait_for(lost(pipe), 10) is None
        await comes_in(address, arrivals)
        second = host.certificate()
        assert second.not_valid_after_utc > first.not_valid_after_utc
        assert second.public_key() == first.public_key()


async def test_who_cannot_renew_goes_on_with_what_is_good(
    address: TlsAddress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(c, "_RENEWED_AT", 0.0)
    monkeypatch.setattr(door.HostDoor, "answer", lambda *_: e.Refused("not today"))
    async with listening(address) as arrivals:
        assert (await comes_in(address, arrivals)).refusal == ""
    assert "is not renewed: " in caplog.text
    assert "not today" in caplog.text


async def test_who_has_shown_a_certificate_is_cut_off_when_that_expires(address: TlsAddress) -> None:
    tls_lab.join(address, "build1", timedelta(seconds=2))
    made = joined_host(address).context()
    async with listening(address) as arrivals:
        pipe = await address.connect(made)
        arrival = await arrivals.get()
        assert await asyncio.wait_for(lost(arrival.pipe), 5) is None
        pipe.abort()


async def test_a_guest_that_is_removed_is_cut_off_and_does_not_come_back(
    address: TlsAddress, caplog: pytest.LogCaptureFixture
) -> None:
    tls_lab.join(address, "build2")
    async with listening(address) as arrivals:
        pipe = await address.dial()
        arrival = await arrivals.get()
        own_host().guests.remove("build1")
        tls.recheck()
        arrival.pipe.pause_reading()
        own_host().guests.remove("build2")
        tls.recheck()
        assert isinstance(await asyncio.wait_for(lost(arrival.pipe), 5), RevokedError)
        assert "cut off: build2 is no guest" in caplog.text
        assert "no guest of this host" in (await comes_in(address, arrivals)).refusal
        pipe.abort()


async def test_a_name_that_another_computer_has_taken_is_told_so(address: TlsAddress) -> None:
    taken = own_host().guests.invite("build1", 60.0, 60.0)
    own_host().guests.join(taken, "another key", "192.0.2.7", "a test")
    async with listening(address) as arrivals:
        assert "another computer has joined as build1" in (await comes_in(address, arrivals)).refusal


async def test_a_host_that_is_joined_by_another_way_knows_the_guest_by_both(address: TlsAddress) -> None:
    other = TlsAddress("localhost", address.port)
    async with listening(TlsAddress("", address.port)) as arrivals:
        assert await dialling.join(invitation(other, "build1"), other) == "build1"
        for way in (other, address):
            assert (await comes_in(way, arrivals)).refusal == ""
        assert own_host().guests.invitations == [], "the line is used up"


async def test_a_removed_guest_gets_a_new_key_whatever_the_way(address: TlsAddress) -> None:
    other = TlsAddress("localhost", address.port)
    stolen = joined_host(address).key()
    own_host().guests.remove("build1")
    async with listening(TlsAddress("", address.port)) as arrivals:
        await dialling.join(invitation(other, "build1"), other)
        assert (await comes_in(other, arrivals)).refusal == ""
        assert "another computer has joined as build1" in (await comes_in(address, arrivals)).refusal
    assert c.key_fingerprint(joined_host(other).key().public_key()) != c.key_fingerprint(stolen.public_key())


async def test_another_name_has_another_key(address: TlsAddress) -> None:
    other = TlsAddress("localhost", address.port)
    async with listening(TlsAddress("", address.port)) as arrivals:
        await dialling.join(invitation(other), other)
        assert str((await comes_in(other, arrivals)).principal) == "tls:build2"
    keys = {c.key_fingerprint(joined_host(one).key().public_key()) for one in (address, other)}
    assert len(keys) == 2


async def test_a_removed_guest_that_is_invited_anew_has_another_key(address: TlsAddress) -> None:
    folder = joined_host(address).folder
    before = {path: path.read_bytes() for path in folder.iterdir()}
    own_host().guests.remove("build1")
    tls_lab.join(address, "build1")
    async with listening(address) as arrivals:
        assert (await comes_in(address, arrivals)).refusal == ""
        for path, data in before.items():
            path.write_bytes(data)
        assert "another computer has joined as build1" in (await comes_in(address, arrivals)).refusal


async def test_a_host_that_was_set_up_anew_is_another_one(address: TlsAddress, tmp_path: Path) -> None:
    (tmp_path / "cardferry" / "tls" / "host").rename(tmp_path / "before")
    async with listening(address):
        with pytest.raises(TlsError, match="has a certificate of somebody else") as raised:
            await address.dial()
    assert not raised.value.heals
    assert "set up anew" in raised.value.hint


async def test_a_certificate_that_has_expired_is_told_here(address: TlsAddress, tmp_path: Path) -> None:
    tls_lab.join(address, "build1", timedelta(seconds=-1))
    with pytest.raises(TlsError, match="has expired on") as raised:
        await address.dial()
    assert "cardferry invite NAME" in raised.value.hint
    files = Infrastructure(tmp_path).files("guest", SPIFFE, days=(-2, -1))
    with pytest.raises(TlsError, match="has expired on"):
        await address.with_files(*files).dial()


# --- an infrastructure of somebody else


SPIFFE = x509.UniformResourceIdentifier("spiffe://example.org/ci/build1")


@asynccontextmanager
async def with_infrastructure(folder: Path) -> AsyncIterator[tuple[Infrastructure, TlsAddress, asyncio.Queue[Arrival]]]:
    """A host that has its certificate from somebody else."""
    pki, address = Infrastructure(folder), TlsAddress("localhost", tls_lab.free_port())
    async with listening(address.with_files(*pki.files("host", x509.DNSName("localhost"), server=True))) as arrivals:
        yield pki, address, arrivals


async def test_principals_of_an_infrastructure(tmp_path: Path) -> None:
    async with with_infrastructure(tmp_path) as (pki, address, arrivals):
        for names, principal in (([SPIFFE], f"tls:{SPIFFE.value}"), ([x509.DNSName("build1.lan")], "tls:build1.lan")):
            arrival = await comes_in(address.with_files(*pki.files("guest", *names)), arrivals)
            assert (str(arrival.principal), arrival.refusal) == (principal, "")
        nobody = await comes_in(address.with_files(*pki.files("guest", x509.RFC822Name("a@b.c"))), arrivals)
        assert "names nobody" in nobody.refusal


async def test_no_guest_of_an_infrastructure_joins(tmp_path: Path) -> None:
    async with with_infrastructure(tmp_path) as (_, address, _arrivals):
        with pytest.raises(NotTlsError):
            await dialling.join(Line("", "build1", bytes(32), "secret"), address)


async def test_certificates_that_somebody_else_renews_are_read_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_infrastructure(tmp_path) as (pki, address, arrivals):
        guest = address.with_files(*pki.files("guest", SPIFFE))
        serials = set()
        for _ in range(2):
            pipe = await guest.dial()
            assert isinstance(pipe, TlsInside)
            serials.add(x509.load_der_x509_certificate(pipe.tls.getpeercert(binary_form=True) or b"").serial_number)
            await arrivals.get()
            pipe.abort()
            pki.files("host", x509.DNSName("localhost"), server=True)
        assert len(serials) == 2
        (tmp_path / "host.pem").write_text("half of it")
        assert (await comes_in(guest, arrivals)).refusal == ""
        assert "the certificate stays as it was" in caplog.text


async def test_the_host_of_an_infrastructure_must_have_the_name_that_was_dialled(tmp_path: Path) -> None:
    async with with_infrastructure(tmp_path) as (pki, address, _):
        files = pki.files("guest", SPIFFE)
        with pytest.raises(TlsError, match=r"not good for this: .*127\.0\.0\.1"):
            await TlsAddress("127.0.0.1", address.port).with_files(*files).dial()


Bad = Callable[[Infrastructure], tuple[str, str, str]]


def _foreign(pki: Infrastructure) -> tuple[str, str, str]:
    (elsewhere := pki.folder / "elsewhere").mkdir()
    _, certificate, key = Infrastructure(elsewhere).files("guest", SPIFFE)
    return str(pki.folder / "ca.pem"), certificate, key


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda pki: pki.files("guest", SPIFFE, days=(-2, -1)), "has expired"),
        (lambda pki: pki.files("guest", SPIFFE, days=(1, 2)), "is not valid yet"),
        (_foreign, "certificate of somebody else"),
        (lambda pki: pki.files("guest", SPIFFE, server=True), "not good for this"),
    ],
)  # fmt: skip
async def test_certificates_that_are_not_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, bad: Bad, told: str
) -> None:
    async with with_infrastructure(tmp_path) as (pki, address, arrivals):
        monkeypatch.setattr(dialling, "_check_not_expired", lambda *_: None)
        pipe = await address.with_files(*bad(pki)).dial()
        error = await asyncio.wait_for(lost(pipe), 5)
        assert isinstance(error, TlsError), "a person can do something about it"
        assert "does not want the certificate of this computer" in error.message
        await until(lambda: told in caplog.text)
        assert (await comes_in(address.with_files(*pki.files("good", SPIFFE)), arrivals)).refusal == ""


# --- those who are no guests


def _client(alpn: str = e.LINK, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    made = context(False, None, None, [alpn] if alpn else [])
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.maximum_version = version
    made.verify_mode = ssl.CERT_NONE
    return made


async def shaking_hands(address: TlsAddress, made: ssl.SSLContext) -> None:
    """Somebody who speaks TLS."""
    with suppress(ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port, ssl=made)
        with suppress(ssl.SSLError, ConnectionError):
            await reader.read()
        writer.transport.abort()


async def saying(address: TlsAddress, said: bytes) -> None:
    """Somebody who says something, and waits for the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(said)
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def leaving(address: TlsAddress) -> None:
    """Somebody who goes in the middle of the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = _client().wrap_bio(incoming, outgoing)
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(outgoing.read())
    await reader.read(1)
    writer.close()


Intruder = Callable[[TlsAddress], Coroutine[Any, Any, None]]
INTRUDERS: list[tuple[Intruder, str]] = [
    (lambda address: saying(address, b"GET / HTTP/1.1\r\n\r\n"), "does not speak TLS"),
    (lambda address: saying(address, bytes(range(200)) * 5), "does not speak TLS"),
    (lambda address: saying(address, b"\x16\x03\x01\x00\xff" + bytes(255)), "does not speak TLS|cannot be talked to"),
    (lambda address: shaking_hands(address, _client(version=ssl.TLSVersion.TLSv1_2)), "speaks no TLS 1.3"),
    (lambda address: shaking_hands(address, _client()), "shows no certificate"),
    (lambda address: shaking_hands(address, _client("")), "is not cardferry, or of another age"),
    (leaving, "has gone before it had proved who it is"),
]


@pytest.mark.parametrize(("intruder", "told"), INTRUDERS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_who_is_no_guest_has_a_line_and_disturbs_nobody(
    address: TlsAddress, caplog: pytest.LogCaptureFixture, intruder: Intruder, told: str, loop: str
) -> None:
    async def whole() -> None:
        async with listening(address) as arrivals:
            before = await address.dial()
            near = (await arrivals.get()).pipe
            await intruder(address)
            await until(lambda: re.search(rf"127\.0\.0\.1 ({told})", caplog.text))
            for _ in range(5):
                await intruder(address)
            assert (await comes_in(address, arrivals)).refusal == ""
            user = User()
            near.start(user)
            before.write(b"still here")
            await user.until(lambda: user.data == b"still here")
            before.abort()

    tls_lab.run(loop, whole())
    lines = [record for record in caplog.records if record.name == module.__name__]
    assert len(lines) == 1, "one line for all of a kind"


async def test_hundreds_who_say_nothing_keep_nobody_out(address: TlsAddress, caplog: pytest.LogCaptureFixture) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with listening(address) as arrivals:
        silent = []
        for _ in range(300):
            silent.append(await asyncio.open_connection("127.0.0.1", address.port))
            await asyncio.sleep(0)
        assert (await comes_in(address, arrivals)).refusal == ""
        await until(lambda: len(os.listdir("/proc/self/fd")) - before < 300 + module._MOST_UNPROVED + 20)  # noqa: PTH208
        assert "has not proved who it is, and others have come" in caplog.text
        assert len(caplog.records) == 1
        for _, writer in silent:
            writer.close()


async def test_who_takes_too_long_has_to_go(
    address: TlsAddress, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROOF_TIME", 0.1)
    async with listening(address):
        await saying(address, b"\x16")
        await until(lambda: "has not proved who it is in time" in caplog.text)
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port, ssl=_client(e.ENROLMENT))
        assert b"Greeting" in await reader.readline()
        assert await asyncio.wait_for(reader.read(), 10) == b"", "who wants to join and says nothing, too"
        writer.transport.abort()


async def test_complaints_come_now_and_then_with_how_many_there_were(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints = module._Complaints()
    for _ in range(3):
        complaints.tell("10.0.0.2", "does not speak TLS")
    monkeypatch.setattr(module, "_COMPLAINT_PAUSE", 0.0)
    complaints.tell("10.0.0.3", "does not speak TLS")
    assert [record.getMessage() for record in caplog.records] == [
        "10.0.0.2 does not speak TLS",
        "10.0.0.3 does not speak TLS (2 more did since the last such line)",
    ]
