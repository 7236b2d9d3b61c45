"""Where the recipe by hand breaks, with cardferry in its place: it works, or it says what is wrong and how to mend it.

The counterpart of `test_recipe_by_hand.py`, situation by situation.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.lab import Computer, Lab, Result
from tests.lab.cards import fake_card, openpgp_card
from tests.lab.computer import PCSC_CLIENT, SECOND_USER
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach, cardferry, over, share
from tests.lab.gpg import Gpg
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, accepts
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe
from tests.lab.sshd import Sshd

FALSE_PCSCD = Path(PCSC_CLIENT).with_name("false_pcscd.py")
READER = "Virtual PCD 00 00"
#: A machine that vanished is noticed within 10 s; the rest is for a busy machine.
NOTICED = 20.0


def client(computer: Computer, words: str, socket: Path | None) -> Running:
    """`pcsc_client.py` in the background."""
    env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t")], env, stdin=True)


def with_card(lab: Lab, **options: str) -> Recipe:
    """A recipe of one's own, for tests that leave it in disorder."""
    recipe = Recipe(lab, options=options)
    fake_card(recipe.pcscd)
    return recipe


def assert_works(recipe: Recipe, socket: Path | None) -> None:
    """An unmodified program on the guest sees the reader and talks to the card."""
    answer = recipe.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", socket)
    assert answer.get("answers") == ["9000", "00019000"], answer


def assert_refused(done: Result, code: int, error: str, hint: str) -> None:
    """The command said in two lines what is wrong (regular expressions) and used its exit code."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) >= 2, done
    assert re.search(f"^error: .*{error}", lines[-2]), done
    assert re.search(f"^hint: .*{hint}", lines[-1]), done
    assert done.code == code, done
    assert "Traceback" not in done.all


def sockets_and_folders(computer: Computer) -> list[str]:
    """What a computer has in its folders for things that come and go, gpg's and sshd's own apart."""
    found = computer.run(["find", "/run", "/tmp", "-mindepth", "1", "-not", "-type", "d"]).check().out
    return sorted(found.splitlines())


# --- ssh -L and its socket file


def test_second_start_of_attach_replaces_the_socket_of_a_crash(recipe: Recipe) -> None:
    first = attach(recipe)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    path = recipe.guest.outside(first.socket)
    assert path.is_socket()
    assert not accepts(path)
    second = attach(recipe)
    assert second.socket == first.socket
    assert_works(recipe, second.socket)
    second.stop()


def test_second_start_of_attach_leaves_a_live_socket_alone_and_says_who_holds_it(recipe: Recipe) -> None:
    first = attach(recipe)
    second = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host))
    assert_refused(second, 42, "host is already attached", f"export PCSCLITE_CSOCK_NAME={re.escape(str(first.socket))}")
    other = cardferry(recipe.guest, "attach", "virtual:", "--socket", str(first.socket))
    assert_refused(other, 11, re.escape(str(first.socket)), ".")
    assert "cardferry" in other.err
    assert_works(recipe, first.socket)
    first.stop()


def test_attach_never_touches_a_file_that_is_no_socket(recipe: Recipe) -> None:
    precious = recipe.guest.home / "precious"
    precious.write_text("letter")
    refused = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host), "--socket", str(precious))
    assert_refused(refused, 11, re.escape(str(precious)), "remove it|choose another")
    assert precious.read_text() == "letter"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_attach_ends_cleanly_and_leaves_nothing_behind(recipe: Recipe, number: signal.Signals) -> None:
    before = sockets_and_folders(recipe.guest), sockets_and_folders(recipe.host)
    ferry = attach(recipe)
    assert_works(recipe, ferry.socket)
    ended = ferry.process.stop(number)
    assert "Traceback" not in ended.all
    assert (sockets_and_folders(recipe.guest), sockets_and_folders(recipe.host)) == before


# --- ssh -R and its socket file


@pytest.mark.parametrize("unlink", ["no", "yes"])
def test_share_replaces_a_stale_remote_socket_whatever_the_server_is_set_to(lab: Lab, unlink: str) -> None:
    recipe = with_card(lab, StreamLocalBindUnlink=unlink)
    by_hand = recipe.ssh_remote()
    by_hand.stop()
    path = recipe.guest.outside(by_hand.socket)
    wait_until(lambda: not accepts(path), "sshd notices")
    assert path.is_socket()
    ferry = share(recipe, "--remote-socket", str(by_hand.socket))
    assert ferry.socket == by_hand.socket
    assert_works(recipe, ferry.socket)


@pytest.mark.parametrize("unlink", [pytest.param("no", marks=pytest.mark.slow), "yes"])
def test_share_leaves_a_live_remote_socket_alone_and_says_who_holds_it(lab: Lab, unlink: str) -> None:
    recipe = with_card(lab, StreamLocalBindUnlink=unlink)
    first = share(recipe, "--remote-socket", "/run/card")
    second = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", "/run/card")
    assert_refused(second, 11, "/run/card .*cardferry of host", "end that one|another path")
    assert_works(recipe, first.socket)
    first.stop()
    by_hand = recipe.ssh_remote(socket=Path("/run/by-hand"))
    third = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", "/run/by-hand")
    assert_refused(third, 11, "/run/by-hand .*sshd", "end that one|another path")
    assert_works(recipe, by_hand.socket)


def test_share_never_touches_a_remote_file_that_is_no_socket(recipe: Recipe) -> None:
    precious = recipe.guest.home / "precious-too"
    precious.write_text("letter")
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", str(precious))
    assert_refused(refused, 11, "not a socket", "remove it|another path")
    assert precious.read_text() == "letter"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_share_ends_cleanly_and_leaves_nothing_behind(recipe: Recipe, number: signal.Signals) -> None:
    before = sockets_and_folders(recipe.guest), sockets_and_folders(recipe.host)
    ferry = share(recipe)
    assert_works(recipe, ferry.socket)
    ended = ferry.process.stop(number)
    assert "Traceback" not in ended.all
    wait_until(lambda: sockets_and_folders(recipe.guest) == before[0], "the guest is as it was")
    assert sockets_and_folders(recipe.host) == before[1]


def test_share_that_is_killed_leaves_nothing_behind_on_the_guest(recipe: Recipe) -> None:
    before = sockets_and_folders(recipe.guest)
    ferry = share(recipe)
    ferry.process.send_signal(signal.SIGKILL)
    ferry.process.wait()
    wait_until(lambda: sockets_and_folders(recipe.guest) == before, "the guest is as it was", NOTICED)


def test_share_onto_the_system_socket_needs_root_and_says_so(recipe: Recipe, needs_second_user: None) -> None:
    config = recipe.guest_sshd.config(recipe.host, "alice", options={"User": SECOND_USER})
    refused = cardferry(recipe.host, "share", "alice", *over(config), "--remote-socket", str(SOCKET))
    assert_refused(refused, 12, f"may not make {SOCKET}", "--remote-socket")


def test_share_onto_the_system_socket_as_root_needs_no_variable(recipe: Recipe) -> None:
    ferry = share(recipe, "--remote-socket", str(SOCKET))
    assert_works(recipe, None)
    assert "Virtual PCD 00 00" in recipe.guest.run(["opensc-tool", "-l"]).out
    ferry.stop()


def test_share_without_a_path_uses_a_private_folder(recipe: Recipe) -> None:
    ferry = share(recipe)
    socket = recipe.guest.outside(ferry.socket)
    assert ferry.socket.is_relative_to(recipe.guest.runtime)
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert socket.stat().st_mode & 0o777 == 0o600
    ferry.stop()


def test_attach_without_a_path_uses_a_private_folder(recipe: Recipe) -> None:
    ferry = attach(recipe)
    socket = recipe.guest.outside(ferry.socket)
    assert ferry.socket == recipe.guest.runtime / "cardferry" / "host.sock"
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert socket.stat().st_mode & 0o777 == 0o600
    ferry.stop()


# --- paths


def long_path(computer: Computer) -> Path:
    """A path of 107 bytes for a socket."""
    folder = Path(f"/run/{'x' * 70}")
    computer.outside(folder).mkdir(exist_ok=True)
    return folder / ("c" * (107 - len(str(folder)) - 1))


def test_socket_paths_hold_107_bytes_and_a_longer_one_is_refused_with_a_hint(recipe: Recipe) -> None:
    longest = long_path(recipe.guest)
    ferry = attach(recipe, "--socket", str(longest))
    assert ferry.socket == longest
    assert_works(recipe, longest)
    ferry.stop()
    refused = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host), "--socket", f"{longest}x")
    assert_refused(refused, 10, "108 bytes", "shorter one with --socket")


def test_remote_socket_paths_that_are_too_long_are_refused_with_a_hint(recipe: Recipe) -> None:
    longest = long_path(recipe.guest)
    ferry = share(recipe, "--remote-socket", str(longest))
    assert_works(recipe, longest)
    ferry.stop()
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", f"{longest}x")
    assert_refused(refused, 10, "108 bytes", "shorter one with --remote-socket")


def test_abstract_sockets_are_refused(recipe: Recipe) -> None:
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", "@card")
    assert_refused(refused, 10, "is not absolute", "absolute path")


def test_path_stays_the_same_so_that_reading_the_variable_once_is_enough(recipe: Recipe) -> None:
    first = attach(recipe)
    first.stop()
    second = attach(recipe)
    assert second.socket == first.socket
    assert recipe.guest.pcsc(f"switch {first.socket} /nowhere")["results"] == ["ok", "ok"]
    second.stop()


def test_setuid_programs_work_through_the_system_socket(recipe: Recipe, needs_second_user: None) -> None:
    ferry = share(recipe, "--remote-socket", str(SOCKET), "--mode", "0666")
    recipe.guest.run(["install", "-m", "4755", "/usr/bin/opensc-tool", "/run/opensc-tool"]).check()
    command = ["setpriv", f"--reuid={SECOND_USER}", "--clear-groups", "/run/opensc-tool", "-l"]
    assert READER in recipe.guest.run(command).out
    ferry.stop()


# --- who is at fault?


def test_without_pcscd_on_the_host_attach_names_the_culprit(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    refused = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host))
    assert_refused(refused, 30, "host", "pcscd")


def test_with_a_dead_pcscd_on_the_host_attach_names_the_culprit(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.process.kill()
    assert recipe.host.outside(SOCKET).is_socket()
    refused = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host))
    assert_refused(refused, 31, "host", "pcscd")


def test_without_pcscd_here_share_names_the_culprit(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest))
    assert_refused(refused, 30, str(SOCKET), "pcscd")


@pytest.fixture
def denying(lab: Lab) -> tuple[Recipe, Running]:
    """A recipe whose host's pcscd closes every connection unread, as with polkit."""
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    pcscd = recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "deny", SOCKET])
    pcscd.wait_for("^listening$")
    return recipe, pcscd


def test_polkit_denial_is_called_by_its_name(denying: tuple[Recipe, Running]) -> None:
    recipe, _ = denying
    refused = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host))
    assert_refused(refused, 32, "host", "polkit")


def test_polkit_judges_cardferry_itself_when_it_shares(denying: tuple[Recipe, Running]) -> None:
    recipe, pcscd = denying
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest))
    assert_refused(refused, 32, str(SOCKET), "polkit")
    pcscd.wait_for("^peer cardferry$")


def test_programs_of_another_version_than_pcscd_work(lab: Lab) -> None:
    recipe = with_card(lab)
    other = recipe.host.home / "newer-pcscd"
    newer = recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "translate", other, "5", SOCKET])
    newer.wait_for("^listening$")
    mismatch = recipe.host.run(["pcsc_scan"], {"PCSCLITE_CSOCK_NAME": str(other)})
    assert "SCardEstablishContext: Service was stopped." in mismatch.all
    ferry = Ferry(recipe.host, ["attach", f"pcscd:{other}"])
    assert recipe.host.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket)["answers"] == ["9000"]
    assert READER in recipe.host.run(["opensc-tool", "-l"], ferry.env).out


# --- ssh failures, each with its own words and exit code


@pytest.mark.parametrize(
    ("options", "code", "error", "hint"),
    [
        ({"HostName": "no-such-host.invalid"}, 21, "no-such-host.invalid", "spelling|network"),
        ({"Port": "9"}, 22, "does not answer at port 9", "ssh server running"),
        ({"HostKeyAlias": "never-seen"}, 23, "key of there is not known", "accept the key"),
        ({"User": "nobody-here"}, 24, "refused the login", "key"),
        ({"NoSuchOption": "yes"}, 27, "does not understand", "-e/--ssh"),
    ],
)
@pytest.mark.parametrize("command", ["attach", "share"])
def test_ssh_failures_have_their_own_words_and_exit_codes(
    recipe: Recipe, command: str, options: dict[str, str], code: int, error: str, hint: str
) -> None:
    config = recipe.host_sshd.config(recipe.guest, "there", options=options)
    done = cardferry(recipe.guest if command == "attach" else recipe.host, command, "there", *over(config))
    assert_refused(done, code, error, hint)


@pytest.mark.parametrize("command", ["attach", "share"])
def test_forwarding_that_sshd_refuses_is_called_by_its_name(lab: Lab, command: str) -> None:
    recipe = with_card(lab, AllowStreamLocalForwarding="no")
    if command == "attach":
        done = cardferry(recipe.guest, "attach", "host", *over(recipe.to_host))
    else:
        done = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest))
    assert_refused(done, 25, "guest|host", "AllowStreamLocalForwarding")


def test_ssh_that_is_not_there_is_called_by_its_name(recipe: Recipe) -> None:
    assert_refused(cardferry(recipe.guest, "attach", "host", "-e", "/no/such/ssh"), 20, "/no/such/ssh", "ssh")


@pytest.mark.parametrize("words", [["attach"], ["attach", "host", "--mode", "rw"], ["share", "virtual:"], ["ferry"]])
def test_wrong_arguments_are_answered_in_two_lines(recipe: Recipe, words: list[str]) -> None:
    done = cardferry(recipe.guest, *words)
    assert done.code != 0
    assert re.fullmatch(r"error: .+\nhint: .+\n", done.err), done


# --- when something goes away


def test_link_that_goes_black_gives_programs_an_error_and_comes_back(lab: Lab) -> None:
    recipe = with_card(lab)
    far = DelayedPort(recipe.guest, recipe.host)
    ferry = attach(recipe, host="far", config=recipe.host_sshd.config(recipe.guest, "far", far.address, far.port))
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    far.black()
    holder.write("\n")
    assert "error" in holder.wait(timeout=NOTICED).out, "the program gets a PC/SC error instead of hanging"
    ferry.process.wait_for("trying again", stream="err", timeout=NOTICED)
    far.cut()
    far.light()
    ferry.process.wait_for("far is back", stream="err", timeout=40)
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket), "it works again")


@pytest.mark.slow  # the same guard as of `attach`
def test_link_that_goes_black_gives_the_guest_of_a_share_an_error_and_the_card_back(lab: Lab) -> None:
    recipe = with_card(lab)
    far = DelayedPort(recipe.host, recipe.guest)
    ferry = share(recipe, config=recipe.guest_sshd.config(recipe.host, "guest", far.address, far.port))
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    far.black()
    begin = time.monotonic()
    holder.write("\n")
    assert "error" in holder.wait(timeout=NOTICED).out, "sshd there has noticed nothing, but the guard has"
    local = client(recipe.host, f"hold\t{READER}", None)
    local.wait_for("held", timeout=max(1.0, NOTICED - (time.monotonic() - begin)))


def test_ssh_killed_is_mended_and_the_socket_stays(lab: Lab) -> None:
    recipe = with_card(lab)
    ferry = attach(recipe)
    inode = recipe.guest.outside(ferry.socket).stat().st_ino
    ssh = child_named("ssh", ferry.process.pid)
    Path(f"/proc/{ssh}").stat()
    recipe.guest.run(["kill", "-KILL", str(ssh)]).check()
    ferry.process.wait_for("trying again in", stream="err")
    ferry.process.wait_for("is back", stream="err", timeout=40)
    assert recipe.guest.outside(ferry.socket).stat().st_ino == inode
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket), "it works again")
    assert_works(recipe, ferry.socket)


def test_ssh_of_a_share_killed_is_mended_and_the_path_stays(lab: Lab) -> None:
    recipe = with_card(lab)
    ferry = share(recipe)
    recipe.host.run(["kill", "-KILL", str(child_named("ssh", ferry.process.pid))]).check()
    ferry.process.wait_for("is back", stream="err", timeout=40)
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket), "it works again")


def child_named(name: str, parent: int) -> int:
    """The process id of a child by its program's name."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == name:
            return int(child)
    raise AssertionError(f"{parent} has no child {name}")


def test_pcscd_that_restarts_is_found_again(lab: Lab) -> None:
    recipe = Recipe(lab)
    card = fake_card(recipe.pcscd)
    ferry = attach(recipe)
    assert_works(recipe, ferry.socket)
    recipe.pcscd.stop()
    card.process.wait()
    recipe.pcscd.start()
    card.insert()
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket), "it works again", 40)


def test_program_that_dies_with_its_transaction_frees_the_card_at_once(recipe: Recipe) -> None:
    ferry = attach(recipe)
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    holder.kill()
    assert_works(recipe, ferry.socket)
    ferry.stop()


def test_guest_that_vanishes_gives_the_card_back(lab: Lab) -> None:
    recipe = with_card(lab)
    ferry = attach(recipe)
    client(recipe.guest, f"hold\t{READER}", ferry.socket).wait_for("held")
    lab.network.unplug(recipe.guest)
    client(recipe.host, f"hold\t{READER}", None).wait_for("held", timeout=NOTICED)


@pytest.mark.slow  # likewise
def test_guest_of_a_share_that_vanishes_gives_the_card_back(lab: Lab) -> None:
    recipe = with_card(lab)
    ferry = share(recipe)
    client(recipe.guest, f"hold\t{READER}", ferry.socket).wait_for("held")
    lab.network.unplug(recipe.guest)
    client(recipe.host, f"hold\t{READER}", None).wait_for("held", timeout=NOTICED)


def test_card_that_comes_and_goes_is_seen(lab: Lab) -> None:
    recipe = Recipe(lab)
    card = fake_card(recipe.pcscd)
    ferry = attach(recipe)
    watcher = client(recipe.guest, "watch", ferry.socket)
    watcher.wait_for(f'"{READER}".*3b80800101')
    card.remove()
    watcher.wait_for(f'"{READER}".*"atr": ""')
    card.insert()
    watcher.wait_for(f'"{READER}".*3b80800101')


# --- GnuPG


def test_gpg_agent_may_keep_its_environment_because_the_path_stays(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    first = attach(recipe)
    gpg = Gpg(recipe.guest, first.socket)
    assert "OpenPGP" in gpg.card_status().check().out
    first.stop()
    second = attach(recipe)
    assert second.socket == first.socket
    wait_until(lambda: gpg.card_status().code == 0, "the agent that was there before finds the card")


def test_scdaemon_that_keeps_the_card_does_not_lock_out_the_others(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    ferry = attach(recipe, "--max-idle", "2")
    gpg = Gpg(recipe.guest, ferry.socket)
    assert "OpenPGP" in gpg.card_status().check().out
    other = recipe.guest.pcsc(f"apdu\t{READER}\t00A40400", ferry.socket, timeout=NOTICED)
    assert "answers" in other, other
    # scdaemon looks after its card twice a second; who asks it before that gets one error
    wait_until(lambda: "OpenPGP" in gpg.card_status().out, "scdaemon finds its card again", timeout=5)


def test_administrator_can_share_the_socket_with_another_user(recipe: Recipe, needs_second_user: None) -> None:
    ferry = attach(recipe, "--socket", "/run/for-all", "--mode", "0666")
    as_alice = ["setpriv", f"--reuid={SECOND_USER}", "--clear-groups", "opensc-tool", "-l"]
    assert READER in recipe.guest.run(as_alice, ferry.env).out
    ferry.stop()
    private = attach(recipe, "--socket", "/run/for-me")
    assert READER not in recipe.guest.run(as_alice, private.env).out
    private.stop()


def test_share_works_where_the_login_has_neither_runtime_folder_nor_bash(lab: Lab) -> None:
    recipe = with_card(lab)
    bare = Sshd(lab.computer("bare"), env={"XDG_RUNTIME_DIR": "", "SHELL": "/bin/sh"})
    bare.computer.run(["rm", "-rf", str(bare.computer.runtime)]).check()
    ferry = Ferry(recipe.host, ["share", "bare", *over(bare.config(recipe.host))])
    assert ferry.socket.is_relative_to("/tmp")
    answer = bare.computer.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket)
    assert answer.get("answers") == ["9000"], answer
