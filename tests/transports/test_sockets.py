from __future__ import annotations

import pytest

from cardferry.transports.sockets import (
    PATH_LIMIT,
    FolderUnsafeError,
    PathUnusableError,
    checked_path,
    checked_reach,
    who_is_in_the_way,
)


def test_the_longest_path_that_fits_is_taken() -> None:
    path = "/" + "x" * (PATH_LIMIT - 1)
    assert checked_path(path, "--socket") == path


def test_a_path_over_107_bytes_is_refused_with_a_hint() -> None:
    with pytest.raises(PathUnusableError) as raised:
        checked_path("/" + "x" * PATH_LIMIT, "--remote-socket")
    assert "108 bytes" in raised.value.message
    assert "--remote-socket" in raised.value.hint


def test_bytes_are_counted_not_characters() -> None:
    with pytest.raises(PathUnusableError, match="bytes"):
        checked_path("/" + "é" * 54, "--socket")


@pytest.mark.parametrize(
    "path",
    ["relative/x.sock", "/folder/", "/a\nb", "/a\0b", "/a${HOME}b", "/a\\b", "/a\x1b[2Jb", "/a\u202eb", "/\udcfc", ""],
)
def test_what_no_socket_can_be_bound_to_is_refused(path: str) -> None:
    with pytest.raises(PathUnusableError):
        checked_path(path, "--socket")


@pytest.mark.parametrize(
    ("folder", "mode", "group"),
    [
        ("drwx------", 0o600, None),
        ("drwx------", 0o700, "staff"),
        ("drwxr-x---", 0o660, "staff"),
        ("drwx--s---", 0o660, "staff"),
        ("drwxr-xr-x", 0o666, None),
        ("drwxrwxrwt", 0o666, None),
        ("drwx------+", 0o600, None),
        ("", 0o666, "staff"),
    ],
)
def test_a_folder_that_lets_through_whom_the_mode_lets_in(folder: str, mode: int, group: str | None) -> None:
    checked_reach("/x/y.sock", folder, mode, group, "--socket")


@pytest.mark.parametrize(
    ("folder", "mode", "group"),
    [("drwx------", 0o660, "staff"), ("drwxr-----", 0o660, "staff"), ("drwxr-x---", 0o666, None)],
)
def test_a_folder_that_shuts_out_whom_the_mode_lets_in(folder: str, mode: int, group: str | None) -> None:
    with pytest.raises(FolderUnsafeError, match="nobody else could reach"):
        checked_reach("/x/y.sock", folder, mode, group, "--socket")


@pytest.mark.parametrize(
    ("path", "holder", "hint"),
    [
        ("/x", "cardferry (process 4711)", "end that program, or look elsewhere"),
        ("/x", "python3 x (pid 11)", "end that program, or look elsewhere"),
        ("/x", "systemd (process 1)", "look elsewhere: one of systemd's units listens there (systemctl list-sockets)"),
        (
            "/x",
            "/sbin/init splash (pid 1)",
            "look elsewhere: one of systemd's units listens there (systemctl list-sockets)",
        ),
        (
            "/run/pcscd/pcscd.comm",
            "systemd (pid 1)",
            "look elsewhere; or, where no reader is plugged in, stop its pcscd: systemctl stop pcscd.socket pcscd",
        ),
        (
            "/var/run/pcscd/pcscd.comm",
            "another program",
            "look elsewhere; or, where no reader is plugged in, stop its pcscd: systemctl stop pcscd.socket pcscd",
        ),
        ("/run/pcscd/pcscd.comm", "cardferry (process 4711)", "end that program, or look elsewhere"),
        (
            "/run/pcscd/pcscd.comm",
            "/usr/sbin/pcscd --foreground (pid 44)",
            "look elsewhere; or, where no reader is plugged in, stop its pcscd: systemctl stop pcscd.socket pcscd",
        ),
    ],
)
def test_nobody_is_asked_to_end_systemd(path: str, holder: str, hint: str) -> None:
    assert who_is_in_the_way(path, holder, "look elsewhere") == hint
