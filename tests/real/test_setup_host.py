"""`cardferry setup HOST`: brought over a real ssh to a computer that has no cardferry and no network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from cardferry import __version__
from cardferry.app.hosts.gain import times_faster
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY
from tests.lab.delay import DelayedPort
from tests.lab.ferry import attach, cardferry, over
from tests.lab.link import AGENT, all_running, kill, link_of, processes
from tests.lab.process import Result, Running, wait_until
from tests.lab.recipe import Recipe

READER = "Virtual PCD 00 00"
#: Where it goes, in a home folder.
PLACE, COMMAND = Path(".local/share/cardferry"), Path(".local/bin/cardferry")


def bare(lab: Lab) -> Recipe:
    """Two computers; the host has the system's Python, and nothing of cardferry or of this project."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    recipe.host.hide_cardferry()
    return recipe


@pytest.fixture(scope="module")
def pair() -> Iterator[Recipe]:
    """Two computers for several tests, which leave nothing in the host's home."""
    with Lab() as lab:
        yield bare(lab)


def setup(recipe: Recipe, *arguments: str, timeout: float = 60.0) -> Result:
    """``cardferry setup host`` on the guest."""
    return cardferry(recipe.guest, "setup", "host", *over(recipe.to_host), *arguments, timeout=timeout)


def everything(computer: Computer) -> dict[str, str]:
    """What is in the home, and in the folders of the running session."""
    found = {}
    for top in (computer.home, computer.outside(computer.runtime)):
        for folder, _, names in os.walk(top):
            found[folder] = ""
            for path in (Path(folder) / name for name in names):
                with suppress(FileNotFoundError):  # what is being removed
                    found[str(path)] = str(path.lstat().st_size)
    return found


def test_it_is_brought_attach_makes_a_link_and_remove_leaves_nothing(pair: Recipe) -> None:
    before = everything(pair.host)
    said = setup(pair).check().out
    assert "~/.local/bin/cardferry is cardferry" in said
    plain = attach(pair)  # sessions of that sshd have no ~/.local/bin in PATH
    assert link_of(pair.guest, "attach").way == "link"
    answer = pair.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", plain.socket)
    assert answer.get("answers") == ["9000", "00019000"], answer
    plain.stop()
    assert "has it already" in setup(pair).check().out
    assert all_running(pair.host)
    assert "was removed" in setup(pair, "--remove").check().out
    assert everything(pair.host) == before
    assert not processes(pair.host, "cardferry")
    assert "nothing that setup has brought" in setup(pair, "--remove").check().out


def test_ctrl_c_is_no_success_and_leaves_nothing(pair: Recipe) -> None:
    before = everything(pair.host)
    with begun(pair) as running:
        os.kill(processes(pair.guest, r"cardferry setup")[-1], signal.SIGINT)
        assert running.wait().code == 130
        wait_until(lambda: everything(pair.host) == before, "the other end has cleaned up")


@contextmanager
def begun(recipe: Recipe) -> Iterator[Running]:
    """A setup over a long way that has sent a part."""
    far = DelayedPort(recipe.guest, recipe.host, one_way=0.01)
    with closing(far):
        config = recipe.host_sshd.config(recipe.guest, "far", far.address, far.port)
        running = recipe.guest.popen([CARDFERRY, "setup", "far", *over(config)])
        wait_until(lambda: far.traffic().up > 2 << 20, "a part has been sent", 60)
        assert running.code is None
        yield running


def test_who_interrupts_it_leaves_nothing(pair: Recipe) -> None:
    before = everything(pair.host)
    with begun(pair) as running:
        os.kill(processes(pair.guest, r"cardferry setup")[-1], 9)
        running.wait()
        wait_until(lambda: everything(pair.host) == before, "the other end has cleaned up")


def test_what_was_killed_over_there_is_not_half_installed_and_the_next_setup_clears_it_away(pair: Recipe) -> None:
    before = everything(pair.host)
    with begun(pair) as running:
        assert kill(pair.host, r"python\S* -I -c import sys; exec")
        ended = running.wait()
    assert ended.code == 55
    assert "error: far has not taken cardferry" in ended.err
    assert not (pair.host.home / COMMAND).is_symlink()
    setup(pair).check()
    assert [path.name for path in (pair.host.home / PLACE).glob(".part*")] == []
    setup(pair, "--remove").check()
    assert everything(pair.host) == before


def test_a_full_disk_is_said_and_leaves_what_was_there(pair: Recipe) -> None:
    folder = pair.host.home / ".local" / "share"
    pair.host.run(["mkdir", "-p", folder]).check()
    pair.host.holder.ask("mount", "tmpfs", folder, "tmpfs", "0", "size=5m")
    try:
        ended = setup(pair)
        assert ended.code == 55
        assert "error: host has not taken cardferry" in ended.err
        assert "No space left on device" in ended.err
        assert pair.host.run(["ls", "-A", folder]).check().out == ""
        assert not (pair.host.home / COMMAND).is_symlink()
    finally:
        pair.host.run(["umount", folder]).check()
        pair.host.run(["rmdir", "-p", folder])


@pytest.mark.slow
def test_without_a_python_that_is_new_enough_it_says_what_is_there(lab: Lab) -> None:
    recipe = bare(lab)
    old = recipe.host.folder / "python"
    old.write_text("#!/bin/sh\nprintf '/usr/bin/python3\\t3.9.2\\tcpython-39-x86_64-linux-gnu\\t2.31\\n'\n")
    old.chmod(0o755)
    for name in Path("/usr/bin").glob("python3.??"):
        recipe.host.holder.mount_bind(old, name)
    hide_other_pythons(recipe.host)
    ended = setup(recipe)
    assert ended.code == 55
    assert "error: host lacks Python 3.11 or newer: it has Python 3.9.2 (/usr/bin/python3)\n" in ended.err
    old.write_text("#!/bin/sh\nprintf '/usr/bin/python3\\t3.99.1\\tcpython-399-x86_64-linux-gnu\\t2.36\\n'\n")
    ended = setup(recipe)
    assert ended.code == 55
    said = next(line for line in ended.err.splitlines() if line.startswith("error: "))
    assert said.startswith("error: not to be had for Python 3.99.1 (/usr/bin/python3) on x86_64: ")
    assert {"uvloop", "cryptography", "msgspec"} <= set(said.replace(",", " ").split())
    assert not (recipe.host.home / ".local").exists()


def hide_other_pythons(computer: Computer) -> None:
    """What is not Debian's."""
    for folder in (Path("/usr/local/bin"), *Path.home().glob(".pyenv")):
        computer.hide(folder)


@pytest.mark.slow
def test_a_command_that_is_there_is_named_once(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    assert "is " + str(CARDFERRY) in setup(recipe, "--command", str(CARDFERRY)).check().out
    plain = attach(recipe)
    assert link_of(recipe.guest, "attach").way == "link"
    plain.stop()
    refused = setup(recipe, "--command", "/usr/bin/false")
    assert refused.code == 55
    assert (recipe.host.home / COMMAND).resolve() == Path(CARDFERRY).resolve()
    setup(recipe, "--remove").check()
    assert not (recipe.host.home / COMMAND).is_symlink()


def test_a_cardferry_that_somebody_else_has_put_there_is_left_alone(lab: Lab) -> None:
    recipe = bare(lab)
    command = recipe.host.home / COMMAND
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    ended = setup(recipe)
    assert ended.code == 55
    assert "host has a cardferry that setup has not brought: ~/.local/bin/cardferry\n" in ended.err
    assert "nothing that setup has brought" in setup(recipe, "--remove").check().out
    assert command.is_file()


def test_an_agent_that_is_in_use_goes_on_when_another_version_is_brought(lab: Lab) -> None:
    recipe = bare(lab)
    newer = recipe.guest.folder / "newer"
    newer.mkdir()
    (newer / "sitecustomize.py").write_text("import cardferry\ncardferry.__version__ = '99.0'\n")

    def folders() -> list[str]:
        return sorted(path.name.partition("-")[0] for path in (recipe.host.home / PLACE).glob("*-*"))

    setup(recipe).check()
    plain = attach(recipe)
    words = ["setup", "host", *over(recipe.to_host)]
    assert "is cardferry 99.0 now" in recipe.guest.run([CARDFERRY, *words], {"PYTHONPATH": str(newer)}).check().out
    assert folders() == [__version__, "99.0"]
    assert recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", plain.socket).get("answers") == ["9000"]
    plain.stop()
    kill(recipe.host, AGENT)
    wait_until(lambda: not processes(recipe.host, AGENT), "the agent is gone")
    setup(recipe).check()
    assert folders() == [__version__]


def test_attach_says_what_it_would_bring_over_the_distance_that_it_measured(pair: Recipe) -> None:
    far = DelayedPort(pair.guest, pair.host, one_way=0.025)
    config = pair.host_sshd.config(pair.guest, "far", far.address, far.port)
    plain = attach(pair, host="far", config=config)
    said = plain.process.wait_for(
        r"far: plain forwarding, cardferry is not installed there; (\d+) times faster over this distance \((\d+) ms\): "
        "cardferry setup far$",
        stream="err",
    )
    assert 50 <= int(said[2]) < 500
    assert int(said[1]) == round(times_faster(int(said[2]) / 1000))
    plain.stop()
    far.close()
