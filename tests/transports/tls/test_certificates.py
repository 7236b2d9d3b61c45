"""Certificates: whom they are about, what they are good for, and files that others can read."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cardferry.app.hosts.direct_link import LinkHost
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls import identity
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.tls.dialling import joined_host
from cardferry.transports.tls.errors import InvitationError, TlsError
from cardferry.transports.tls.identity import Host, Line
from tests.transports.tls import tls_lab

DAY = timedelta(days=1)


def about(*names: x509.GeneralName) -> x509.Certificate:
    """A certificate about somebody."""
    return tls_lab.signed(c.Authority.new("pki"), c.new_key(), list(names))


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        ([x509.DNSName("build1.example.org")], "build1.example.org"),
        ([x509.DNSName("a"), x509.UniformResourceIdentifier("spiffe://example.org/ci/build1")], "spiffe://example.org/ci/build1"),
        ([x509.RFC822Name("ada@example.org")], ""),
        ([x509.UniformResourceIdentifier("spiffe://example.org/a b")], ""),
        ([x509.DNSName("a" * 256)], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_whom_a_certificate_is_about(names: list[x509.GeneralName], principal: str) -> None:
    assert c.principal_name(about(*names)) == principal


def test_a_guest_cannot_pass_for_the_host() -> None:
    authority, other = c.Authority.new("host"), c.Authority.new("host")
    key = c.new_key().public_key()
    assert c.host_certificate_of(authority.certificate, authority.issue("host", key, DAY, host=True))
    assert not c.host_certificate_of(authority.certificate, authority.issue("host", key, DAY, host=False))
    assert not c.host_certificate_of(authority.certificate, other.issue("host", key, DAY, host=True))
    assert not c.host_certificate_of(authority.certificate, authority.certificate)


def test_what_is_asked_for_must_be_signed_with_its_key() -> None:
    key = c.new_key()
    assert c.requested_key(c.request(key)) == key.public_key()
    forged = c.request(key)[:-1] + bytes([c.request(key)[-1] ^ 1])
    larger = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for wrong in (b"", b"\x30\x03", forged, larger.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
                  .public_bytes(serialization.Encoding.DER)):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the library says
            c.requested_key(wrong)


def test_a_certificate_is_renewed_before_it_expires() -> None:
    for life in (timedelta(seconds=6), timedelta(days=90)):
        made = c.Authority.new("host").issue("a", c.new_key().public_key(), life, host=False)
        now = datetime.now(UTC)
        assert made.not_valid_before_utc <= now < c.renewal(made) < made.not_valid_after_utc <= now + life


def test_the_hosts_own_certificate_is_renewed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path / "host", "host")
    first = host.renew()
    assert host.renew() == first
    monkeypatch.setattr(c, "HOST_LIFE", timedelta(seconds=1))
    (tmp_path / "host" / "certificate.pem").unlink()
    authority = host.authority().certificate
    assert host.renew() < first
    monkeypatch.setattr(identity, "datetime", _InAYear)
    monkeypatch.setattr(c, "HOST_LIFE", timedelta(days=365))
    assert host.renew() > datetime.now(UTC) + timedelta(days=200)
    assert host.authority().certificate == authority, "guests have pinned it"
    host.context()


class _InAYear(datetime):
    @classmethod
    def now(cls, tz: object = None) -> _InAYear:
        return cls.fromtimestamp(datetime.now(UTC).timestamp() + 365 * 86400, UTC)


# --- the line


def test_the_line_is_one_word_that_no_shell_changes() -> None:
    line = Line("tls://host.example:7764", "build1", bytes(range(32)), "c2VjcmV0-_")
    assert Line.parse(f" {line}\n") == line
    assert all(one.isalnum() or one in "/:.-_" for one in str(line)), line


@pytest.mark.parametrize(
    "text", ["", "tls://host", "tls://host:1/a/b/c", "ssh://host/a/" + "A" * 43 + "/s", "x" * 9999]
)
def test_what_is_no_line(text: str) -> None:
    with pytest.raises(InvitationError):
        Line.parse(text)


# --- files


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsAddress:
    return tls_lab.joined_port(tmp_path, monkeypatch)


async def test_a_key_that_others_can_read_is_not_used(joined: TlsAddress) -> None:
    key = joined_host(joined).folder / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(TlsError, match="others can read") as raised:
        await joined.dial()
    assert (raised.value.exit_code, raised.value.hint) == (
        37,
        f"chmod 600 '{key}'" if " " in str(key) else f"chmod 600 {key}",
    )
    os.chmod(key, 0o600)  # noqa: PTH101
    with pytest.raises(Exception, match="nobody listens"):
        await joined.dial()


async def test_files_that_are_gone_damaged_or_do_not_fit(joined: TlsAddress) -> None:
    folder = joined_host(joined).folder
    (folder / "key.pem").write_bytes(c.key_pem(c.new_key()))
    with pytest.raises(TlsError, match="cannot be used"):
        await joined.dial()
    (folder / "authority.pem").write_text("nothing")
    (folder / "certificate.pem").write_text("nothing")
    with pytest.raises(TlsError, match="cannot be read"):
        await joined.dial()
    shutil.rmtree(folder)
    with pytest.raises(TlsError, match="has not joined") as raised:
        await joined.dial()
    assert "cardferry invite NAME" in raised.value.hint


def test_a_hosts_key_that_others_can_read_is_not_used(joined: TlsAddress, tmp_path: Path) -> None:
    folder = tmp_path / "cardferry" / "tls" / "host"
    with tls_lab.open_listener(joined):
        pass
    for name in ("key.pem", "authority.key.pem"):
        (folder / name).chmod(0o644)
        if name == "authority.key.pem":
            (folder / "certificate.pem").unlink()  # so that another one must be signed
        with pytest.raises(TlsError, match="others can read"), tls_lab.open_listener(joined):
            pass
        (folder / name).chmod(0o600)


@pytest.mark.parametrize("address", [TlsAddress("lab", 7764), FleetAddress("LAB-7", ("nats://n1",))])
def test_joining_again_is_another_proof(
    address: TlsAddress | FleetAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    host, seen = LinkHost(address), []
    for _ in range(2):
        seen.append(host.proof())
        tls_lab.join(address)
        os.utime(joined_host(address).own, ns=(len(seen), len(seen)))  # as if some time had passed
    assert [*seen, host.proof()] == [None, 1, 2]
    assert host.proof() == host.proof()
