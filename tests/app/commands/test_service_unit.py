"""The text of units, as systemd itself reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cardferry.app.commands.service_unit import Unit, packaged, quoted, unit_name
from tests.lab.computer import REPOSITORY

PROGRAM = ("/bin/echo",)


def verified(unit: Unit, folder: Path) -> str:
    """What systemd has to say of it."""
    path = folder / unit.name
    path.write_text(unit.text())
    who = "--system" if unit.system else "--user"
    done = subprocess.run(
        ["systemd-analyze", "verify", who, "--man=no", path], capture_output=True, text=True, check=False,
        env={"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return "".join(line for line in done.stderr.splitlines(keepends=True) if path.name in line)


@pytest.mark.real
@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
@pytest.mark.parametrize("command", ["attach", "share", "host"])
def test_systemd_has_nothing_to_say_of_it(command: str, system: bool, tmp_path: Path) -> None:
    label = "" if command == "host" else "laptop"
    unit = Unit(command, label, f"{command} 100%", PROGRAM, (command, "-e", "ssh -F x"), system, "/bin:/x y")
    assert verified(unit, tmp_path) == ""
    wrong = Unit(command, label, "", ("echo-without-a-folder?/",), ())
    assert verified(wrong, tmp_path), "it would have something to say"


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("laptop", "laptop"),
        ("--grace=5", "--grace=5"),
        ("50%", "50%%"),
        ("", '""'),
        ("ssh -F x", '"ssh -F x"'),
        ("$HOME", '"$$HOME"'),
        ('say "no"', '"say \\"no\\""'),
        ("a\\b", '"a\\\\b"'),
        ("two\nlines", '"two\\nlines"'),
        ("\x1b", '"\\x1b"'),
        ("ü", '"ü"'),
        ("'", '"\'"'),
    ],
)
def test_words_are_what_systemd_reads_as_the_same_words(word: str, written: str) -> None:
    assert quoted(word) == written


def test_a_service_of_the_computer_waits_for_the_network_and_has_its_folder() -> None:
    text = Unit("share", "build1", "share build1", PROGRAM, ("share", "build1"), system=True).text()
    for line in ("After=network-online.target", "RuntimeDirectory=cardferry", "WantedBy=multi-user.target"):
        assert line in text.splitlines()
    assert "network" not in Unit("share", "build1", "share build1", PROGRAM, ("share", "build1")).text()


def test_names_of_units_are_no_templates_and_differ_where_hosts_do() -> None:
    names = [unit_name("attach", label) for label in ("laptop", "me@laptop", "laptop+desk")]
    assert names == [f"cardferry-attach-{it}.service" for it in ("laptop", "me:laptop", "laptop+desk")]
    assert unit_name("host", "") == "cardferry.service"


def test_what_packages_bring_is_the_same_unit() -> None:
    assert (REPOSITORY / "contrib" / "systemd" / "cardferry.service").read_text() == packaged()
    line = "ExecStart=/usr/bin/env PATH=%h/.local/bin:/usr/local/bin:/usr/bin:/bin cardferry host"
    assert line in packaged().splitlines()
