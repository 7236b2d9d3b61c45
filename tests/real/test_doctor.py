"""``cardferry doctor`` finds and explains each trap, with real parts, and a sound installation has none."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card, openpgp_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.ferry import Ferry, attach, cardferry, over
from tests.lab.gpg import Gpg
from tests.lab.link import AGENT, install_cardferry, of_version, processes
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, accepts
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

FALSE_PCSCD = Path(PCSC_CLIENT).with_name("false_pcscd.py")
VARIABLE = "PCSCLITE_CSOCK_NAME"
READER = "Virtual PCD 00 00"


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    code: int
    findings: tuple[dict[str, str], ...]

    def __str__(self) -> str:
        return f"exit code {self.code}\n" + "\n".join(map(str, self.findings))

    def says(self, state: str, probe: str, says: str, hint: str = "") -> bool:
        """Whether there is such a finding (regular expressions)."""
        return any(
            one["state"] == state
            and re.search(probe, one["probe"])
            and re.search(says, one["says"])
            and re.search(hint, one["hint"])
            for one in self.findings
        )

    @property
    def problems(self) -> list[dict[str, str]]:
        """Those that make the exit code 1."""
        return [one for one in self.findings if one["state"] == "problem"]


def examined(computer: Computer, *arguments: str, env: Mapping[str, str] | None = None) -> Report:
    """``cardferry doctor`` there, all it says."""
    done = computer.run([CARDFERRY, "doctor", "--json", *arguments], env)
    assert done.err == "", done
    return Report(done.code, tuple(json.loads(done.out)))


def of_host(recipe: Recipe) -> Report:
    """``cardferry doctor host`` on the guest."""
    return examined(recipe.guest, "host", *over(recipe.to_host))


def assert_sound(report: Report) -> None:
    assert not report.problems, report
    assert report.code == 0, report


def assert_problem(report: Report, probe: str, says: str, hint: str) -> None:
    """It is named, with what to do, and it is the only one."""
    assert report.says("problem", probe, says, hint), report
    assert len(report.problems) == 1, report
    assert report.code == 1, report


# --- a sound installation


def test_a_sound_host_has_no_problem(recipe: Recipe) -> None:
    report = examined(recipe.host)
    assert_sound(report)
    assert report.says("ok", "library", "4:4")
    assert report.says("ok", "pcscd here", f"answers at {SOCKET}")
    assert report.says("ok", "readers here", f"{READER}: a card with ATR 3b80800101")


def test_a_sound_host_has_no_problem_seen_from_the_guest(recipe: Recipe) -> None:
    report = of_host(recipe)
    assert_sound(report)
    assert report.says("ok", "ssh host", "logged in as user")
    assert report.says("note", "cardferry on host", "not installed there")
    assert report.says("ok", "pcscd on host", "can be forwarded")
    assert report.says("ok", "readers on host", f"{READER}: a card")
    assert report.says("note", "pcscd here", "none is needed")


def test_it_is_written_for_people_too(recipe: Recipe) -> None:
    done = cardferry(recipe.guest, "doctor", "host", *over(recipe.to_host))
    assert done.code == 0
    assert f"✓ readers on host: {READER}: a card with ATR 3b80800101\n" in done.out
    broken = cardferry(recipe.guest, "doctor")
    assert broken.code == 1
    says, hint = (
        "there is no pcscd socket at .*",
        "is the reader plugged in at another computer[?] cardferry attach HOST; .*",
    )
    assert re.search(rf"^✗ pcscd here: {says}\n  hint: {hint}systemctl enable --now pcscd.socket$", broken.out, re.M)


def test_an_attached_guest_that_did_all_it_should_has_no_problem(recipe: Recipe) -> None:
    gpg = Gpg(recipe.guest, name="sound")
    ferry = attach(recipe)
    report = examined(recipe.guest, env={**ferry.env, "GNUPGHOME": str(gpg.home)})
    ferry.stop()
    assert_sound(report)
    assert report.says("ok", "attach host", re.escape(f"serves at {ferry.socket} (forwarding)"))
    assert report.says("ok", "readers of attach host", f"{READER}: a card")
    assert report.says("ok", "environment", f"leads to .*process {ferry.process.pid}")
    assert report.says("ok", "gnupg", "uses PC/SC")


def test_the_link_is_tried_where_cardferry_is_at_both_ends(lab: Lab) -> None:
    recipe = Recipe(lab, options={"AllowStreamLocalForwarding": "no"})
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host)
    first = of_host(recipe)
    assert_sound(first)
    assert first.says("ok", "cardferry on host", r"^cardferry \S+ is installed there, its agent does not run")
    assert first.says("ok", "link to host", "it works")
    assert first.says("ok", "readers on host", f"{READER}: a card")
    assert first.says("note", "pcscd on host", "does not forward", "AllowStreamLocalForwarding")
    assert of_host(recipe).says("ok", "cardferry on host", "its agent runs")


@pytest.mark.slow
def test_a_stopped_agent_is_named_at_both_ends_and_the_hint_helps(recipe: Recipe) -> None:
    install_cardferry(recipe.host)
    assert_sound(of_host(recipe))  # that has started the agent
    (agent,) = processes(recipe.host, AGENT)
    os.kill(agent, signal.SIGSTOP)
    told = r"process \d+\)? is stopped"
    hint = re.search(r"kill -CONT \d+", str(examined(recipe.host)))
    assert hint is not None
    report = of_host(recipe)
    assert report.says("problem", "cardferry on host", told, rf"^over there: {hint[0]} "), report
    refused = cardferry(recipe.host, "attach", f"pcscd:{SOCKET}")
    assert re.search(rf"^error: .*{told}\nhint: {hint[0]} ", refused.err, re.M), refused
    forwarded = attach(recipe)
    assert re.search(rf"no link to host: .*{told}.*forwarded instead", forwarded.process.err.text)
    forwarded.stop()
    recipe.host.run(["sh", "-c", hint[0]]).check()
    again = of_host(recipe)
    assert_sound(again)
    assert again.says("ok", "cardferry on host", "its agent runs")


@pytest.mark.parametrize("words", ["virtual:", "vpicc:35999"])
def test_readers_that_are_made_here(recipe: Recipe, words: str) -> None:
    report = examined(recipe.guest, words)
    assert_sound(report)
    assert report.says("ok", words, "built-in card|port 35999 is free")


# --- pcscd, readers, cards


def test_no_pcscd_here(recipe: Recipe) -> None:
    assert_problem(examined(recipe.guest), "pcscd here", "there is no pcscd socket", "enable --now pcscd.socket")


def test_no_pcscd_on_the_host(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    assert_problem(of_host(recipe), "pcscd on host", "there is no pcscd socket", "start it over there")


def test_a_dead_pcscd(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.process.kill()
    assert_problem(of_host(recipe), "pcscd on host", "nobody listens at", "systemctl restart")
    assert_problem(examined(recipe.host), "pcscd here", "nobody listens at", "systemctl restart")


def test_no_card_and_no_reader(lab: Lab) -> None:
    recipe = Recipe(lab)
    for report, probe in ((examined(recipe.host), "readers here"), (of_host(recipe), "readers on host")):
        assert_problem(report, probe, "no card in any reader", "put one in")
    without = Recipe(lab, readers=0, names=("bare", "other"))
    for report, probe in (
        (examined(without.host), "readers here"),
        (examined(without.guest, "host", *over(without.to_host)), "readers on host"),
    ):
        assert_problem(report, probe, "sees no reader", "libccid")


def test_a_missing_driver(recipe: Recipe, lab: Lab) -> None:
    other = Recipe(lab)
    fake_card(other.pcscd)
    other.host.hide("/usr/lib/pcsc/drivers")
    for report, probe in ((examined(other.host), "driver here"), (of_host(other), "driver on host")):
        assert report.says("note", probe, "driver for USB readers .CCID. is not installed", "apt install libccid")
    assert not examined(recipe.host).says("note", "driver", "")


@pytest.fixture
def denying(lab: Lab) -> Recipe:
    """A recipe whose host's pcscd closes every connection unread, as with polkit."""
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "deny", SOCKET]).wait_for("^listening$")
    return recipe


def test_polkit_denial(denying: Recipe) -> None:
    assert_problem(of_host(denying), "pcscd on host", "turned us away", "polkit.*cardferry share")
    assert_problem(examined(denying.host), "pcscd here", "turned us away", "polkit")


# --- versions


@pytest.fixture(scope="module")
def newer(recipe: Recipe) -> tuple[Running, Path]:
    """A pcscd of level 4:5 on the host, beside the real one."""
    path = recipe.host.home / "newer"
    process = recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "translate", path, "5", SOCKET])
    process.wait_for("^listening$")
    return process, path


def test_a_version_pair_that_fails_without_us(recipe: Recipe, newer: tuple[Running, Path]) -> None:
    path = newer[1]
    through = examined(recipe.host, f"pcscd:{path}")
    assert_sound(through)
    assert through.says("note", "pcscd:", "4:5 .*4:4 .*refuse each other; through cardferry they work together")
    gpg = Gpg(recipe.host, name="versions")
    direct = examined(recipe.host, env={VARIABLE: str(path), "GNUPGHOME": str(gpg.home)})
    assert_problem(direct, "readers in this shell", "4:5 .*4:4 .*refuse each other", f"cardferry attach pcscd:{path}")


def test_a_server_that_takes_no_version(recipe: Recipe) -> None:
    path = recipe.host.home / "strange"
    recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "version", path, "9"]).wait_for("^listening$")
    report = examined(recipe.host, f"pcscd:{path}")
    assert_problem(report, "pcscd:", "cannot be listed: it speaks another protocol version", "start anew")


# --- sockets and the environment


def test_the_variable_is_not_exported(recipe: Recipe) -> None:
    ferry = attach(recipe)
    gpg = Gpg(recipe.guest, name="unexported")
    report = examined(recipe.guest, env={"GNUPGHOME": str(gpg.home)})
    ferry.stop()
    assert_problem(report, "environment", "is not exported", f"export {VARIABLE}={ferry.socket}")


def test_a_stale_socket(recipe: Recipe) -> None:
    ferry = attach(recipe)
    ferry.process.send_signal(signal.SIGKILL)
    ferry.process.wait()
    gpg = Gpg(recipe.guest, name="stale")
    report = examined(recipe.guest, env={**ferry.env, "GNUPGHOME": str(gpg.home)})
    assert_problem(report, "environment", f"{ferry.socket}, a stale socket", "unset .*cardferry attach")
    assert report.says("note", "sockets", f"{ferry.socket} is dead", "replaces it")


def test_a_forwarding_whose_other_end_is_gone(lab: Lab) -> None:
    recipe = Recipe(lab)
    by_hand = recipe.ssh_local()
    recipe.pcscd.stop()
    gpg = Gpg(recipe.guest)
    report = examined(recipe.guest, env={**by_hand.env, "GNUPGHOME": str(gpg.home)})
    assert_problem(report, "environment", f"{VARIABLE}: .*turned us away", "look over there")


def test_an_attachment_that_is_down(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    ferry = attach(recipe)
    recipe.pcscd.stop()
    ferry.process.wait_for("pcscd at host", stream="err")
    gpg = Gpg(recipe.guest)
    report = examined(recipe.guest, env={**ferry.env, "GNUPGHOME": str(gpg.home)})
    closed = "pcscd at host closed the connection without an answer"
    assert report.says("problem", "readers of attach host", closed, "on host: see there whether it runs"), report
    assert closed in report.findings[0]["says"], "the cause comes first"
    assert not report.says("problem", "", "sees no reader"), report
    assert report.code == 1


def test_a_runtime_folder_too_long_for_sockets(recipe: Recipe) -> None:
    folder = recipe.guest.home / ("x" * 80)
    folder.mkdir(mode=0o700)
    report = examined(recipe.guest, "host", *over(recipe.to_host), env={"XDG_RUNTIME_DIR": str(folder)})
    assert report.says("problem", "sockets", "too long for sockets.*107", "XDG_RUNTIME_DIR")
    assert report.code == 1


# --- programs


def test_programs_that_ignore_the_variable(recipe: Recipe) -> None:
    folder = recipe.guest.home / "newer-library"
    folder.mkdir()
    (folder / "dpkg-query").write_text("#!/bin/sh\necho 2.3.3-1\n")
    (folder / "dpkg-query").chmod(0o755)
    (folder / "opensc-tool").touch()
    (folder / "opensc-tool").chmod(0o4755)
    report = examined(recipe.guest, env={"PATH": f"{folder}:{recipe.guest.env['PATH']}"})
    assert report.says("note", "privileged", f"{folder}/opensc-tool.*ignore {VARIABLE}", str(SOCKET)), report
    assert not examined(recipe.guest).says("note", "privileged", "")


def test_scdaemon_with_its_own_driver(recipe: Recipe) -> None:
    gpg = Gpg(recipe.guest, name="own-driver")
    (gpg.home / "scdaemon.conf").write_text("")
    ferry = attach(recipe)
    report = examined(recipe.guest, env={**ferry.env, "GNUPGHOME": str(gpg.home)})
    ferry.stop()
    assert_problem(report, "gnupg", "its own driver", f"disable-ccid into {gpg.home}/scdaemon.conf")


def test_an_agent_with_an_old_environment(recipe: Recipe) -> None:
    gpg = Gpg(recipe.guest, name="old")
    home = {"GNUPGHOME": str(gpg.home)}
    recipe.guest.run(["gpgconf", "--launch", "gpg-agent"], home).check()
    ferry = attach(recipe)
    report = examined(recipe.guest, env={**ferry.env, **home})
    assert_problem(report, "gnupg", f"gpg-agent has {VARIABLE} not set", "gpgconf --kill gpg-agent")
    recipe.guest.run(["gpgconf", "--kill", "gpg-agent"], home).check()
    wait_until(lambda: examined(recipe.guest, env={**ferry.env, **home}).code == 0, "the agent has ended")
    recipe.guest.run(["gpgconf", "--launch", "gpg-agent"], {**ferry.env, **home}).check()
    assert_sound(examined(recipe.guest, env={**ferry.env, **home}))
    ferry.stop()
    after = examined(recipe.guest, "virtual:", env=home)
    assert_problem(after, "gnupg", f"gpg-agent has {VARIABLE}={ferry.socket}", "gpgconf --kill gpg-agent")
    recipe.guest.run(["gpgconf", "--kill", "gpg-agent"], home).check()


def test_scdaemon_that_holds_the_card(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    local = Gpg(recipe.host)
    local.card_status().check()
    for report, probe in ((examined(recipe.host), "readers here"), (of_host(recipe), "readers on host")):
        assert_sound(report)
        assert report.says("note", probe, f"{READER}: a program has the card for itself alone", "pcsc-shared")


def test_scdaemon_that_holds_an_attached_card(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    ferry = attach(recipe)
    gpg = Gpg(recipe.guest, ferry.socket)
    gpg.card_status().check()
    report = examined(recipe.guest, env={**ferry.env, "GNUPGHOME": str(gpg.home)})
    assert_sound(report)
    assert report.says("note", "gnupg", "^scdaemon .*holds a card", "pcsc-shared"), report


# --- ssh


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"HostName": "no-such-host.invalid"}, "no computer is known by the name", "spelling|network"),
        ({"Port": "9"}, "does not answer at port 9", "ssh server running"),
        ({"HostKeyAlias": "never-seen"}, "key of there is not known", "accept the key"),
        ({"User": "nobody-here"}, "refused the login", "key"),
        ({"NoSuchOption": "yes"}, "does not understand", "-e/--ssh"),
    ],
)
def test_ssh_cannot_log_in(recipe: Recipe, options: dict[str, str], says: str, hint: str) -> None:
    config = recipe.host_sshd.config(recipe.guest, "there", options=options)
    assert_problem(examined(recipe.guest, "there", *over(config)), "host", says, hint)


def test_ssh_is_not_there(recipe: Recipe) -> None:
    report = examined(recipe.guest, "host", "-e", "/no/such/ssh")
    assert_problem(report, "host", "no program '/no/such/ssh'", "openssh-client")


def test_ssh_may_not_forward(lab: Lab) -> None:
    recipe = Recipe(lab, options={"AllowStreamLocalForwarding": "no"})
    fake_card(recipe.pcscd)
    assert_problem(of_host(recipe), "pcscd on host", "does not forward sockets", "AllowStreamLocalForwarding yes")


def test_ssh_gives_no_terminal(lab: Lab) -> None:
    recipe = Recipe(lab, options={"PermitTTY": "no"})
    fake_card(recipe.pcscd)
    report = of_host(recipe)
    assert_sound(report)
    assert report.says("note", "ssh host", "gives no terminals.*40 ms", "PermitTTY yes")


@pytest.mark.parametrize("installed", [False, True])
def test_ssh_runs_one_command_only(lab: Lab, installed: bool) -> None:
    command = f"{CARDFERRY} host --stdio" if installed else "true"
    recipe = Recipe(lab, options={"ForceCommand": command})
    fake_card(recipe.pcscd)
    report = of_host(recipe)
    if installed:
        assert_sound(report)
        assert report.says("ok", "ssh host", "a key that is for the link only")
        assert report.says("ok", "readers on host", f"{READER}: a card")
    else:
        assert report.says("problem", "ssh host", "runs no commands for this account", "forced command"), report
        assert report.code == 1


def test_cardferry_on_the_host_does_not_work(recipe: Recipe) -> None:
    install_cardferry(recipe.host, script="#!/bin/sh\necho no such module >&2\nexit 1\n")
    report = of_host(recipe)
    (recipe.host.folder / "bin" / "cardferry").unlink()
    assert_problem(report, "cardferry on host", "does not start: no such module", "cardferry --version")
    assert report.says("ok", "pcscd on host", "can be forwarded"), "the other way is tried all the same"


def test_a_link_that_cannot_be_made(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host, env=of_version(recipe.host, 9, 9))
    report = of_host(recipe)
    assert_problem(report, "link to host", "version", "same version of cardferry on both sides")
    assert report.says("ok", "readers on host", f"{READER}: a card"), "the other way is tried all the same"


def test_the_port_for_cards_is_taken(recipe: Recipe) -> None:
    report = examined(recipe.host, f"vpicc:{recipe.pcscd.port()}")
    assert_problem(report, "host", f"cards cannot dial in at port {recipe.pcscd.port()}", "choose another port")


def test_an_attached_port_for_cards_is_in_order(recipe: Recipe) -> None:
    ferry = Ferry(recipe.guest, ["attach", "vpicc:35999"])
    report = examined(recipe.guest, "vpicc:35999")
    ferry.stop()
    assert report.says("ok", "vpicc:35999", "cards can dial in at port 35999: it is attached"), report


# --- all of it


def test_each_probe_goes_on_when_another_fails(recipe: Recipe) -> None:
    config = recipe.host_sshd.config(recipe.guest, "there", options={"Port": "9"})
    gpg = Gpg(recipe.guest, name="other")
    (gpg.home / "scdaemon.conf").write_text("")
    report = examined(
        recipe.guest, "there", *over(config), env={VARIABLE: "/no/such/socket", "GNUPGHOME": str(gpg.home)}
    )
    assert report.says("problem", "environment", "does not exist", "unset")
    assert report.says("problem", "gnupg", "its own driver", "disable-ccid")
    assert report.says("problem", "host", "port 9", "running")
    assert report.code == 1


def test_it_leaves_nothing_behind(recipe: Recipe) -> None:
    def files(computer: Computer) -> list[str]:
        return sorted(computer.run(["find", "/run", "/tmp", "-not", "-type", "d"]).check().out.splitlines())

    before = files(recipe.guest), files(recipe.host)
    assert_sound(of_host(recipe))
    wait_until(lambda: (files(recipe.guest), files(recipe.host)) == before, "everything is as it was")
    assert accepts(recipe.host.outside(SOCKET))
