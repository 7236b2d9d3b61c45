"""What ``setup system`` writes and asks of systemd; on a real one: tests/real/test_for_every_program.py."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cardferry.app.commands import system_setup
from cardferry.app.commands.service_unit import Unit
from cardferry.app.commands.system_setup import SystemSetup, SystemSetupError
from cardferry.app.runtime.paths import SYSTEM_FOLDER
from cardferry.policy import polkit


class Systemd:
    """Does nothing, and remembers what it was asked."""

    def __init__(self, *active: str) -> None:
        self.active = set(active)
        self.asked: list[str] = []

    def __call__(self, *words: str, check: bool = True) -> str:
        del check
        verb, *units = (word for word in words if not word.startswith("-"))
        self.asked.append(" ".join([verb, *units]))
        if verb == "is-active":
            return "active" if units[0] in self.active else "inactive"
        if verb in ("start", "restart"):
            self.active |= set(units)
        if verb in ("stop", "disable"):
            self.active -= set(units)
        return ""


Make = Callable[..., SystemSetup]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(polkit, "ACTIONS", tmp_path / "no polkit")
    monkeypatch.setattr(system_setup, "listener", lambda path: None)
    monkeypatch.setattr(system_setup, "check_trusted", lambda folder, hint: None)
    (units := tmp_path / "units").mkdir()

    def make_one(systemd: Systemd, *, running: bool = True, pcscd: bool = True) -> SystemSetup:
        return SystemSetup(units, systemd, lambda: running, lambda: pcscd)

    return make_one


def contents(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in found}


def test_the_units_run_this_cardferry_with_the_hosts(make: Make) -> None:
    systemd = Systemd("pcscd.socket")
    setup = make(systemd)
    setup.install(["laptop", "exec:docker exec -i box cardferry host --stdio", "50%$a"])
    found = contents(setup.units)
    start = next(line for line in found["cardferry-system.service"].splitlines() if line.startswith("ExecStart="))
    words = shlex.split(start.removeprefix("ExecStart="))
    assert words[1:6] == ["-m", "cardferry", "setup", "system", "--serve"]
    assert words[6:] == ["laptop", "exec:docker exec -i box cardferry host --stdio", "50%%$$a"]
    assert "SocketMode=0600" in found["pcscd.socket.d/cardferry.conf"], "root alone gets past us"
    assert systemd.active == {"pcscd.socket", "cardferry-system.socket", "cardferry-system.service"}


def test_its_folder_is_not_that_of_roots_own_services(make: Make) -> None:
    """They give theirs the rights 0700, and accounts come here; and it goes when the service is stopped."""
    folders = [
        line.removeprefix("RuntimeDirectory=")
        for text in (
            make(Systemd()).files(["x"]).values(),
            [Unit("host", "", "host", ("x",), ("host",), system=True).text()],
        )
        for line in "\n".join(text).splitlines()
        if line.startswith("RuntimeDirectory=")
    ]
    assert folders == [SYSTEM_FOLDER.name, "cardferry"]


@pytest.mark.parametrize("before", [("pcscd.socket",), ()])
def test_removed_it_is_as_it_was(make: Make, before: tuple[str, ...]) -> None:
    systemd = Systemd(*before)
    setup = make(systemd)
    setup.install([])
    setup.install(["laptop"])  # once more, with another host
    assert "laptop" in contents(setup.units)["cardferry-system.service"]
    assert setup.remove()
    assert contents(setup.units) == {}
    assert systemd.active == set(before)
    assert not setup.remove()


def test_what_others_have_in_the_folder_of_the_drop_in_stays(make: Make) -> None:
    setup = make(Systemd())
    other = setup.units / "pcscd.socket.d" / "other.conf"
    other.parent.mkdir()
    other.write_text("[Socket]\n")
    setup.install([])
    setup.remove()
    assert contents(setup.units) == {"pcscd.socket.d": "", "pcscd.socket.d/other.conf": "[Socket]\n"}


def test_in_a_chroot_the_files_go_all_the_same(make: Make) -> None:
    setup = make(Systemd())
    setup.install([])
    (wants := setup.units / "sockets.target.wants").mkdir()
    (wants / "cardferry-system.socket").symlink_to("../cardferry-system.socket")
    apart = Systemd()
    assert make(apart, running=False).remove()
    assert contents(setup.units) == {"sockets.target.wants": ""}
    assert apart.asked == []


def test_what_cannot_work_is_said_before_anything_is_changed(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemSetupError, match="systemd does not run"):
        make(Systemd(), running=False).install([])
    with pytest.raises(SystemSetupError, match="no pcscd here, and no HOST"):
        make(Systemd(), pcscd=False).install([])
    (tmp_path / "no polkit").touch()
    monkeypatch.setattr(polkit, "installed", lambda: False)
    with pytest.raises(SystemSetupError, match="dbus-fast"):
        make(Systemd()).install([])
    assert contents(tmp_path / "units") == {}


def test_who_serves_at_the_public_socket_is_not_robbed_of_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_setup, "listener", lambda path: "cardferry (process 4711)")
    systemd = Systemd("pcscd.socket")
    setup = make(systemd)
    with pytest.raises(SystemSetupError, match=r"in use by cardferry \(process 4711\)"):
        setup.install([])
    assert contents(setup.units) == {}
    assert systemd.active == {"pcscd.socket"}


def test_systemds_words_are_told() -> None:
    with pytest.raises(SystemSetupError, match="systemctl no-such-verb: "):
        system_setup.systemctl("no-such-verb")
