from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.app.doctor.there import CHECKS
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.direct_link import LinkHost
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.registry import KINDS, SCHEMES, parse_host
from cardferry.app.hosts.sources import PcscdHost, VirtualHost, VpiccHost
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.cli import names
from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.exec import ExecAddress
from cardferry.transports.registry import TRANSPORTS
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import VsockAddress

FORMS: list[tuple[str, HostAddress, str]] = [
    ("pool:signing", PoolHost("signing", parse_host), "pool-signing"),
    ("computer1", SshHost("computer1"), "computer1"),
    ("me@computer1", SshHost("me@computer1"), "me@computer1"),
    ("computer1.example.org", SshHost("computer1.example.org"), "computer1.example.org"),
    ("ssh://computer1", SshHost("ssh://computer1"), "computer1"),
    ("ssh://me@computer1:2222", SshHost("ssh://me@computer1:2222"), "me@computer1-2222"),
    ("me@fe80::1", SshHost("me@fe80::1"), "me@fe80-1"),
    ("::1", SshHost("::1"), "1"),
    ("fe80::1%eth0", SshHost("fe80::1%eth0"), "fe80-1-eth0"),
    ("10.0.0.1", SshHost("10.0.0.1"), "10.0.0.1"),
    ("pcscd:/run/pcscd/pcscd.comm", PcscdHost(Path("/run/pcscd/pcscd.comm")), "pcscd-run-pcscd-pcscd.comm"),
    ("unix:/run/cards/link", LinkHost(UnixAddress(Path("/run/cards/link"))), "unix-run-cards-link"),
    ("vsock://2:35960", LinkHost(VsockAddress(2, 35960)), "vsock-2-35960"),
    ("tls://laptop", LinkHost(TlsAddress("laptop")), "tls-laptop"),
    ("tls://laptop:7000", LinkHost(TlsAddress("laptop", 7000)), "tls-laptop-7000"),
    ("tls://[2001:db8::1]", LinkHost(TlsAddress("2001:db8::1")), "tls-2001-db8-1"),
    (
        "exec:cardferry host --stdio",
        LinkHost(ExecAddress(("cardferry", "host", "--stdio"))),
        "exec-cardferry-host---stdio",
    ),
    (
        "exec:docker exec -i box cardferry host --stdio",
        LinkHost(ExecAddress(("docker", "exec", "-i", "box", "cardferry", "host", "--stdio"))),
        "exec-docker-exec--i-box-cardfer-cf8b4a93",
    ),
    ("vpicc:35963", VpiccHost(35963), "vpicc-35963"),
    ("vpicc:unix:/run/card", VpiccHost(Path("/run/card")), "vpicc-run-card"),
    ("virtual:", VirtualHost(), "virtual"),
]


@pytest.mark.parametrize(("text", "host", "name"), FORMS, ids=[text for text, _, _ in FORMS])
def test_each_form_is_parsed_spelled_and_named(text: str, host: HostAddress, name: str) -> None:
    assert parse_host(text) == host
    assert str(host) == text
    assert host.label == name


def test_the_name_of_a_host_that_was_joined_means_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert parse_host("laptop") == SshHost("laptop")
    for place in ("laptop:7764", "other:7000"):
        (tmp_path / "cardferry" / "tls" / f"joined-{place}").mkdir(parents=True)
    assert parse_host("laptop") == parse_host("Laptop") == LinkHost(TlsAddress("laptop"))
    assert parse_host("ssh://laptop") == SshHost("ssh://laptop")
    assert [parse_host(text) for text in ("me@laptop", "other", "::1")] == [
        SshHost("me@laptop"), SshHost("other"), SshHost("::1"),
    ]  # fmt: skip
    assert names.joined_hosts() == ["laptop", "tls://other:7000"]


@pytest.mark.parametrize("text", ["vsock:2:35960", "vsock://host:35960", "VSOCK://host:35960"])
def test_a_machines_port_can_be_written_in_other_ways(text: str) -> None:
    assert parse_host(text) == LinkHost(VsockAddress(2, 35960))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "HOST is one of"),
        ("-oProxyCommand=evil", "HOST is one of"),
        ("me@-oProxyCommand=evil", "HOST is one of"),
        ("ssh://-oProxyCommand=evil", "HOST is one of"),
        ("@computer1", "HOST is one of"),
        ("me@", "HOST is one of"),
        ("ssh://", "HOST is one of"),
        ("two words", "no blanks"),
        ("line\nbreak", "no blanks"),
        ("host;reboot", "to a shell"),
        ("$(reboot)@host", "to a shell"),
        ("ssh://`reboot`", "to a shell"),
        ("me@host|x", "to a shell"),
        ("http://computer1", "HOST is one of"),
        ("ssh:computer1", "HOST is one of"),
        ("computer1:22", "ssh://computer1:22"),
        ("pcscd:", "absolute"),
        ("pcscd:relative", "absolute"),
        ("unix:", "unix:/run/cards/link"),
        ("unix:link", "unix:/run/cards/link"),
        ("vsock:", "vsock://2:35960"),
        ("vsock://2", "vsock://2:35960"),
        ("vsock://guest:35960", "vsock://2:35960"),
        ("vsock://any:35960", "vsock://2:35960"),
        ("vsock://4294967295:1", "vsock://2:35960"),
        ("exec:", "'exec:docker exec -i box"),
        ("exec:it's", "'exec:docker exec -i box"),
        ("vpicc:unix:card", "vpicc:unix:/"),
        ("vpicc:", "vpicc:35963"),
        ("vpicc:0", "vpicc:35963"),
        ("vpicc:65536", "vpicc:35963"),
        ("vpicc:²", "vpicc:35963"),
        ("virtual:x", "HOST is one of"),
    ],
)
def test_what_is_no_host_is_refused_with_a_hint_and_the_exit_code_of_wrong_usage(text: str, hint: str) -> None:
    with pytest.raises(AddressSyntaxError) as raised:
        parse_host(text)
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


@given(st.text(max_size=60))
def test_any_text_is_a_host_or_a_user_error(text: str) -> None:
    try:
        host = parse_host(text)
    except UserError:
        return
    assert parse_host(str(host)) == host


def test_long_names_that_begin_alike_have_labels_of_their_own() -> None:
    """Two of them attached side by side have two sockets."""
    boxes = {parse_host(f"exec:docker exec --interactive --user card {box} cardferry host").label for box in "ab"}
    assert len(boxes) == 2


@given(st.text(max_size=60).filter(lambda text: "\0" not in text))
def test_a_label_is_always_the_name_of_a_visible_file(text: str) -> None:
    try:
        name = parse_host(text).label
    except UserError:
        return
    assert 0 < len(name) <= 40
    assert "/" not in name
    assert not name.startswith(".")
    assert name.isascii()
    assert name.isprintable()


def test_the_registry_is_whole() -> None:
    """Each kind of host can be written, and the doctor looks at it; each transport is a host."""
    spelled = {type(host) for _, host, _ in FORMS}
    assert spelled == set(KINDS) == CHECKS.keys()
    assert TRANSPORTS.keys() <= SCHEMES.keys()
    assert {text.partition(":")[0] for text, _, _ in FORMS if ":/" in text or text.endswith(":")} <= SCHEMES.keys()
