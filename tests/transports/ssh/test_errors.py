"""What OpenSSH 9.2 really said when it was provoked, and what a person reads instead."""

from __future__ import annotations

import pytest

from cardferry.transports.ssh import errors
from cardferry.transports.ssh.errors import FORWARDING_SYMPTOMS, SshError, before_login, find, host_name

CHANGED_KEY = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:cR3B4M/D2+IVWSzpfXjwBPVBvSj1u63e2mwwmVkHav0.
Please contact your system administrator.
Add correct host key in /home/me/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/me/.ssh/known_hosts:1
  remove with:
  ssh-keygen -f "/home/me/.ssh/known_hosts" -R "[127.0.0.1]:2222"
Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.
Host key verification failed."""

SAID: list[tuple[str, type[SshError], str, str]] = [
    (
        "@       WARNING: REVOKED HOST KEY DETECTED!               @\n"
        "ED25519 host key for computer1 was revoked and you have requested strict checking.\n"
        "Host key verification failed.",
        errors.HostKeyRefusedError,
        "the key of computer1 was revoked",
        "new key",  # `ssh-keygen -R` leaves the lines with @revoked
    ),
    (
        "Host key ED25519 SHA256:HvsLOLo4YUUM46ynzEpl2MTVzo8ajNVxxgOvPywtJuI revoked by file /home/me/revoked\n"
        "Host key verification failed.",
        errors.HostKeyRefusedError,
        "the key of computer1 was revoked",
        "new key",
    ),
    (
        "ssh: Could not resolve hostname computer1: Temporary failure in name resolution",
        errors.HostUnknownError,
        "no computer is known by the name computer1",
        "spelling",
    ),
    (
        "ssh: Could not resolve hostname computer1: Name or service not known",
        errors.HostUnknownError,
        "no computer is known by the name computer1",
        "spelling",
    ),
    (
        "ssh: Could not resolve hostname jump: Name or service not known\n"
        "kex_exchange_identification: Connection closed by remote host\n"
        "Connection closed by UNKNOWN port 65535",
        errors.HostUnknownError,
        "no computer is known by the name jump",
        "spelling",
    ),
    (
        "ssh: connect to host 127.0.0.1 port 1: Connection refused",
        errors.HostUnreachableError,
        "127.0.0.1 does not answer at port 1: Connection refused",
        "ssh server",
    ),
    (
        "ssh: connect to host 10.255.255.1 port 22: Network is unreachable",
        errors.HostUnreachableError,
        "10.255.255.1 does not answer at port 22: Network is unreachable",
        "in reach",
    ),
    (
        "ssh: connect to host 10.98.0.7 port 22: Connection timed out",
        errors.HostUnreachableError,
        "10.98.0.7 does not answer at port 22: Connection timed out",
        "in reach",
    ),
    (
        "ssh: connect to host 10.98.0.7 port 22: No route to host",
        errors.HostUnreachableError,
        "10.98.0.7 does not answer at port 22: No route to host",
        "in reach",
    ),
    (
        "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 2222 timed out",
        errors.HostUnreachableError,
        "computer1 does not answer in time",
        "in reach",
    ),
    (
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
        errors.HostUnreachableError,
        "computer1 closed the connection before anybody could log in",
        "jump host",
    ),
    (
        "Unable to negotiate with 127.0.0.1 port 2222: no matching cipher found. Their offer: chacha20-poly1305",
        errors.HostUnreachableError,
        "computer1 and this computer's ssh have nothing in common: no matching cipher found",
        "ssh_config(5)",
    ),
    (
        "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\n"
        "Host key verification failed.",
        errors.HostKeyRefusedError,
        "the key of computer1 is not known here",
        "fingerprint",
    ),
    ("Host key verification failed.", errors.HostKeyRefusedError, "the key of computer1 is not known here", "accept"),
    (
        CHANGED_KEY,
        errors.HostKeyRefusedError,
        "the key of computer1 is not the one that is known here",
        "ssh-keygen -R '[127.0.0.1]:2222', then `ssh computer1`",
    ),
    (
        "Permission denied, please try again.\nroot@127.0.0.1: Permission denied (publickey,password).",
        errors.AccessRefusedError,
        "computer1 refused the login: root@127.0.0.1: Permission denied (publickey,password).",
        "agent",
    ),
    (
        "Received disconnect from 127.0.0.1 port 2222:2: Too many authentication failures\n"
        "Disconnected from 127.0.0.1 port 2222",
        errors.AccessRefusedError,
        "computer1 refused the login",
        "agent",
    ),
    (
        "command-line: line 0: Bad configuration option: foo",
        errors.SshMisconfiguredError,
        "ssh does not understand what it was told",
        "~/.ssh/config",
    ),
    (
        "unknown option -- -\nusage: ssh [-46AaCfGgKkMNnqsTtVvXxYy]",
        errors.SshMisconfiguredError,
        "unknown option",
        "-e",
    ),
    ("Bad port '99999'", errors.SshMisconfiguredError, "Bad port '99999'", "ssh computer1"),
    (
        "Can't open user config file /nonexist: No such file or directory",
        errors.SshMisconfiguredError,
        "/nonexist",
        "-e/--ssh",
    ),
    ("something nobody has heard of", SshError, "ssh to computer1 failed: something nobody has heard of", "ssh -v"),
    ("", SshError, "ssh to computer1 failed", "ssh -v"),
]


@pytest.mark.parametrize(("said", "kind", "message", "hint"), SAID, ids=[said[:60] for said, *_ in SAID])
def test_what_ssh_says_becomes_its_own_error_and_hint(said: str, kind: type[SshError], message: str, hint: str) -> None:
    error = before_login(said.splitlines(), 255, "computer1")
    assert type(error) is kind
    assert message in error.message
    assert hint in error.hint


def test_each_kind_of_failure_has_its_own_exit_code() -> None:
    kinds = {kind for _, kind, _, _ in SAID} | {
        errors.SshNotInstalledError,
        errors.ForwardingRefusedError,
        errors.NoShellError,
    }
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


def test_what_waiting_cannot_mend_is_known() -> None:
    stay = {errors.HostUnknownError, errors.HostUnreachableError, errors.ConnectionLostError, SshError}
    leave = {
        errors.SshNotInstalledError,
        errors.HostKeyRefusedError,
        errors.AccessRefusedError,
        errors.ForwardingRefusedError,
        errors.NoShellError,
        errors.SshMisconfiguredError,
    }
    assert all(kind.heals for kind in stay)
    assert not any(kind.heals for kind in leave)


@pytest.mark.parametrize("status", [0, 1, 127])
def test_a_login_that_runs_no_commands_is_an_account_without_a_shell(status: int) -> None:
    error = before_login(["This account is currently not available."], status, "computer1")
    assert type(error) is errors.NoShellError


@pytest.mark.parametrize(
    "line",
    [
        "mux_client_forward: forwarding request failed: remote port forwarding failed for listen path /tmp/x",
        "Warning: remote port forwarding failed for listen path /proc/x/y",
        "mux_client_forward: forwarding request failed: Port forwarding failed",
    ],
)
def test_a_refused_forwarding_is_recognised(line: str) -> None:
    error = find(FORWARDING_SYMPTOMS, [line], "computer1")
    assert type(error) is errors.ForwardingRefusedError
    assert "AllowStreamLocalForwarding" in error.hint


@pytest.mark.parametrize(
    ("destination", "name"),
    [
        ("computer1", "computer1"),
        ("me@computer1", "computer1"),
        ("ssh://me@computer1:2222", "computer1"),
        ("ssh://computer1/", "computer1"),
        ("ssh://[fe80::1]:22", "fe80::1"),
        ("me@fe80::1", "fe80::1"),
    ],
)
def test_the_name_in_a_destination(destination: str, name: str) -> None:
    assert host_name(destination) == name


def test_an_ssh_that_was_killed_says_nothing_about_the_host() -> None:
    error = before_login([], -15, "computer1")
    assert type(error) is SshError
    assert error.message == "ssh to computer1 was ended by signal 15"
