"""Where the recipe by hand breaks: plain ssh, plain pcscd, unmodified programs.

This is the baseline that cardferry is measured against, shown to be true on this machine. Each situation has its
counterpart in `test_recipe_with_cardferry.py`.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.lab import Lab, LabError
from tests.lab.cards import fake_card, openpgp_card
from tests.lab.computer import PCSC_CLIENT, SECOND_USER, Computer
from tests.lab.delay import DelayedPort
from tests.lab.gpg import Gpg
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, accepts
from tests.lab.process import Command, Running, wait_until
from tests.lab.recipe import Recipe
from tests.lab.sshd import Sshd

#: What is done by hand does not change with us: it is looked at again with ``--slow``.
pytestmark = pytest.mark.slow

FALSE_PCSCD = Path(PCSC_CLIENT).with_name("false_pcscd.py")
NO_SERVICE, COMM_ERROR, SECURITY_VIOLATION = "0x8010001d", "0x80100013", "0x8010006a"
SHARING_VIOLATION = "0x8010000b"


def client(computer: Computer, words: str, socket: Path | None) -> Running:
    """`pcsc_client.py` in the background."""
    env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t")], env, stdin=True)


def with_card(lab: Lab) -> Recipe:
    """A recipe of one's own, for tests that leave it in disorder."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    return recipe


def false_pcscd(computer: Computer, *words: str | Path) -> Running:
    """`false_pcscd.py` in a computer, listening."""
    process = computer.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, *words])
    process.wait_for("^listening$")
    return process


def wait_until_over(process: Running, seconds: float) -> bool:
    """Whether the process ends within that time."""
    try:
        process.wait(timeout=seconds)
    except LabError:
        return False
    return True


def assert_hangs(process: Running, seconds: float = 3.0) -> None:
    """The process has no answer after so long; what it waits for takes milliseconds otherwise."""
    with pytest.raises(LabError, match="still running"):
        process.wait(timeout=seconds)


# --- ssh -L and its socket file


def test_second_start_of_ssh_local_finds_its_address_in_use(recipe: Recipe) -> None:
    first = recipe.ssh_local()
    first.ssh.kill()  # a crash: ssh has no time to remove the socket file
    command: Command = ["ssh", "-F", recipe.to_host, "-N", "-L", f"{first.socket}:{SOCKET}", "host"]
    second = recipe.guest.run([*command, "-o", "ExitOnForwardFailure=yes"])
    assert second.code == 255
    assert f"unix_listener: cannot bind to path {first.socket}: Address already in use" in second.err
    assert "Could not request local forwarding." in second.err


def test_ssh_local_without_exit_on_forward_failure_stays_up_and_serves_nothing(recipe: Recipe) -> None:
    first = recipe.ssh_local()
    first.ssh.kill()
    command: Command = ["ssh", "-v", "-F", recipe.to_host, "-N", "-L", f"{first.socket}:{SOCKET}", "host"]
    second = recipe.guest.popen(command)
    second.wait_for("Could not request local forwarding", stream="err")
    second.wait_for("Entering interactive session", stream="err")
    assert second.code is None
    assert recipe.guest.pcsc("list", first.socket) == {"error": NO_SERVICE, "call": "SCardEstablishContext"}


# --- ssh -R and its socket file


def test_ssh_remote_with_a_stale_socket_fails_whatever_the_client_wants(recipe: Recipe) -> None:
    socket = recipe.new_socket()
    recipe.ssh_remote(socket=socket).stop()
    assert recipe.guest.outside(socket).exists(), "sshd leaves the socket file behind"
    command: Command = [
        "ssh",
        "-F",
        recipe.to_guest,
        "-N",
        "-R",
        f"{socket}:{SOCKET}",
        "-o",
        "ExitOnForwardFailure=yes",
    ]
    again = recipe.host.run([*command, "-o", "StreamLocalBindUnlink=yes", "guest"])
    assert again.code == 255
    assert f"remote port forwarding failed for listen path {socket}" in again.err


def test_ssh_remote_that_failed_to_forward_warns_and_stays_up(recipe: Recipe) -> None:
    socket = recipe.new_socket()
    recipe.ssh_remote(socket=socket).stop()
    again = recipe.host.popen(["ssh", "-F", recipe.to_guest, "-N", "-R", f"{socket}:{SOCKET}", "guest"])
    again.wait_for(f"Warning: remote port forwarding failed for listen path {socket}", stream="err")
    assert recipe.guest.pcsc("list", socket)["error"] == NO_SERVICE
    assert again.code is None


def test_ssh_remote_with_unlink_on_the_server_is_silently_replaced_and_then_dead(lab: Lab) -> None:
    recipe = Recipe(lab, options={"StreamLocalBindUnlink": "yes"})
    fake_card(recipe.pcscd)
    first = recipe.ssh_remote()
    assert "readers" in recipe.guest.pcsc("list", first.socket)
    path = recipe.guest.outside(first.socket)
    inode = path.stat().st_ino
    second = recipe.ssh_remote(socket=first.socket)
    wait_until(lambda: path.exists() and path.stat().st_ino != inode, "the socket is another one")
    assert second.ssh.err.text == "", "nobody says that something was replaced"
    second.stop()
    wait_until(lambda: not accepts(path), "sshd notices the end of the second")
    assert recipe.guest.pcsc("list", first.socket)["error"] == NO_SERVICE
    assert first.ssh.code is None, "the first ssh believes that it still serves"


def test_ssh_remote_onto_the_system_socket_needs_root(recipe: Recipe, needs_second_user: None) -> None:
    config = recipe.guest_sshd.config(recipe.host, "alice", options={"User": SECOND_USER})
    command: Command = [
        "ssh",
        "-F",
        config,
        "-N",
        "-R",
        f"{SOCKET}:{SOCKET}",
        "-o",
        "ExitOnForwardFailure=yes",
        "alice",
    ]
    refused = recipe.host.run(command)
    assert refused.code == 255
    assert f"remote port forwarding failed for listen path {SOCKET}" in refused.err


# --- paths


def long_path(computer: Computer) -> Path:
    """A path of 107 bytes for a socket."""
    folder = Path(f"/run/{'x' * 95}")
    computer.outside(folder).mkdir(exist_ok=True)
    path = folder / "card"
    path = path.with_name("c" * (107 - len(str(folder)) - 1))
    computer.outside(path).unlink(missing_ok=True)
    return path


def test_socket_paths_hold_107_bytes(recipe: Recipe) -> None:
    longest = long_path(recipe.guest)
    forward = recipe.ssh_local(socket=longest)
    assert "readers" in recipe.guest.pcsc("list", longest)
    forward.stop()
    too_long = f"{longest}x"
    command: Command = [
        "ssh",
        "-F",
        recipe.to_host,
        "-N",
        "-L",
        f"{too_long}:{SOCKET}",
        "-o",
        "ExitOnForwardFailure=yes",
    ]
    refused = recipe.guest.run([*command, "host"])
    assert refused.code == 255
    assert "Bad local forwarding specification" in refused.err


def test_library_cuts_a_longer_path_silently(recipe: Recipe) -> None:
    longest = long_path(recipe.guest)
    recipe.ssh_local(socket=longest)
    assert "readers" in recipe.guest.pcsc("list", f"{longest}-and-more")


def test_library_knows_no_abstract_sockets(recipe: Recipe) -> None:
    listener = recipe.guest.popen(
        [
            PLAIN_PYTHON,
            "-c",
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0cardferry-lab'); s.listen(); "
            "print('listening', flush=True); s.accept(); print('somebody came', flush=True)",
        ]
    )
    listener.wait_for("listening")
    assert recipe.guest.pcsc("list", "@cardferry-lab")["error"] == NO_SERVICE
    assert "somebody came" not in listener.out.text


def test_variable_is_read_once_per_process(recipe: Recipe) -> None:
    forward = recipe.ssh_local()
    wrong, right = recipe.guest.home / "nothing-here", forward.socket
    assert recipe.guest.pcsc(f"switch {right} {wrong}")["results"] == ["ok", "ok"]
    assert recipe.guest.pcsc(f"switch {wrong} {right}")["results"] == [NO_SERVICE, NO_SERVICE]


def test_setuid_programs_see_the_variable_only_before_2_1_0(recipe: Recipe, needs_second_user: None) -> None:
    forward = recipe.ssh_local(socket=Path("/run/for-everybody"))
    recipe.guest.outside(forward.socket).chmod(0o666)
    setuid = recipe.guest.outside("/run/opensc-tool")
    recipe.guest.run(["cp", "/usr/bin/opensc-tool", "/run/opensc-tool"]).check()
    setuid.chmod(0o4755)
    user = SECOND_USER
    listing = recipe.guest.run(["setpriv", f"--reuid={user}", "--clear-groups", "/run/opensc-tool", "-l"], forward.env)
    library = Path("/usr/lib/x86_64-linux-gnu/libpcsclite.so.1")
    ignores = library.exists() and b"secure_getenv" in library.read_bytes()
    assert ("Virtual PCD 00 00" in listing.out) is not ignores


# --- who is at fault?


def test_without_pcscd_on_the_host_programs_name_no_culprit(lab: Lab) -> None:
    recipe = Recipe(lab)
    recipe.pcscd.stop()
    socket = recipe.new_socket()
    ssh = recipe.guest.popen(["ssh", "-F", recipe.to_host, "-N", "-L", f"{socket}:{SOCKET}", "host"])
    wait_until(recipe.guest.outside(socket).exists, "the socket is there")
    scan = recipe.guest.run(["pcsc_scan"], {"PCSCLITE_CSOCK_NAME": str(socket)})
    # which of the two is a matter of timing: sshd's refusal reaches the library before or after its request
    assert re.search(r"SCardEstablishContext: (Service not available|Access denied)\.", scan.all)
    assert "host" not in scan.all
    assert ssh.code is None


@pytest.fixture
def denying(lab: Lab) -> tuple[Recipe, Path, Running]:
    """A recipe whose host's pcscd closes every connection unread, as with polkit."""
    recipe = Recipe(lab)
    socket = recipe.host.home / "denying"
    return recipe, socket, false_pcscd(recipe.host, "deny", socket)


def test_polkit_denial_arrives_as_some_other_error(denying: tuple[Recipe, Path, Running]) -> None:
    recipe, socket, _ = denying
    assert recipe.host.pcsc("list", socket)["error"] == SECURITY_VIOLATION
    path = recipe.new_socket()
    recipe.guest.popen(["ssh", "-F", recipe.to_host, "-N", "-L", f"{path}:{socket}", "host"])
    wait_until(lambda: accepts(recipe.guest.outside(path)), "ssh -L listens")
    assert recipe.guest.pcsc("list", path)["error"] in (COMM_ERROR, NO_SERVICE)


def test_polkit_judges_sshd_with_local_and_ssh_with_remote_forwarding(
    denying: tuple[Recipe, Path, Running],
) -> None:
    recipe, socket, pcscd = denying
    path = recipe.new_socket()
    recipe.guest.popen(["ssh", "-F", recipe.to_host, "-N", "-L", f"{path}:{socket}", "host"])
    wait_until(recipe.guest.outside(path).exists, "ssh -L listens")
    recipe.guest.pcsc("list", path)
    pcscd.wait_for("^peer sshd$")
    path = recipe.new_socket()
    recipe.host.popen(["ssh", "-F", recipe.to_guest, "-N", "-R", f"{path}:{socket}", "guest"])
    wait_until(recipe.guest.outside(path).exists, "sshd listens")
    recipe.guest.pcsc("list", path)
    pcscd.wait_for("^peer ssh$")


def test_what_programs_print_on_a_version_mismatch(lab: Lab) -> None:
    computer = lab.computer("guest")
    socket = computer.home / "other-version"
    false_pcscd(computer, "version", socket, "3")
    env = {"PCSCLITE_CSOCK_NAME": str(socket)}
    assert "SCardEstablishContext: Service was stopped." in computer.run(["pcsc_scan"], env).all
    assert "No smart card readers found." in computer.run(["opensc-tool", "-l"], env).all
    assert "No slots." in computer.run(["pkcs11-tool", "-L"], env).all
    gpg = Gpg(computer, socket)
    assert "selecting card failed: No such device" in gpg.card_status().err


def test_programs_that_connect_at_the_same_moment_are_turned_away(lab: Lab) -> None:
    """pcscd listens with a backlog of 1; sshd does not wait for room. A pcscd that is busy is shown by a halted one."""
    recipe = with_card(lab)
    forward = recipe.ssh_local()
    recipe.pcscd.process.send_signal(signal.SIGSTOP)
    programs = [client(recipe.guest, "list", forward.socket) for _ in range(10)]
    turned_away = [program for program in programs[:-3] if wait_until_over(program, 3.0)]
    recipe.pcscd.process.send_signal(signal.SIGCONT)
    assert turned_away
    for program in turned_away:
        assert re.search(f"{NO_SERVICE}|{SECURITY_VIOLATION}|{COMM_ERROR}", program.out.text)


# --- when something goes away


def test_link_that_goes_black_hangs_programs_without_an_error(lab: Lab) -> None:
    recipe = with_card(lab)
    far = DelayedPort(recipe.guest, recipe.host, local_port=2201)
    config = recipe.host_sshd.config(recipe.guest, "black", far.address, far.port)
    forward = recipe.ssh_local(config=config, to="black")
    holder = client(recipe.guest, "hold\tVirtual PCD 00 00", forward.socket)
    holder.wait_for("held")
    far.black()
    holder.write("\n")
    assert_hangs(holder)
    assert forward.ssh.code is None


def test_link_that_goes_black_hangs_programs_though_the_ssh_of_the_other_side_has_ended(lab: Lab) -> None:
    recipe = with_card(lab)
    far = DelayedPort(recipe.host, recipe.guest, local_port=2202)
    config = recipe.guest_sshd.config(recipe.host, "guest", far.address, far.port)
    forward = recipe.ssh_remote("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", config=config)
    holder = client(recipe.guest, "hold\tVirtual PCD 00 00", forward.socket)
    holder.wait_for("held")
    far.black()
    assert "Timeout, server" in forward.ssh.wait().err
    holder.write("\n")
    assert_hangs(holder)


def test_ssh_killed_fails_waiting_calls_and_all_later_ones(recipe: Recipe) -> None:
    forward = recipe.ssh_local()
    waiting = client(recipe.guest, "watch", forward.socket)
    waiting.wait_for("Virtual PCD 00 01")
    talking = client(recipe.guest, "hold\tVirtual PCD 00 00", forward.socket)
    talking.wait_for("held")
    wait_until_idle(waiting)
    forward.ssh.send_signal(signal.SIGKILL)
    forward.ssh.wait()
    assert COMM_ERROR in waiting.wait().out
    talking.write("\n")
    assert NO_SERVICE in talking.wait().out
    for _ in range(3):
        assert recipe.guest.pcsc("list", forward.socket)["error"] == NO_SERVICE


def test_program_that_dies_with_its_transaction_frees_the_card_at_once(recipe: Recipe) -> None:
    forward = recipe.ssh_local()
    holder = client(recipe.guest, "hold\tVirtual PCD 00 00", forward.socket)
    holder.wait_for("held")
    holder.kill()
    assert "answers" in recipe.guest.pcsc("apdu\tVirtual PCD 00 00\t00A40000", forward.socket, timeout=5)


def test_guest_that_vanishes_keeps_the_card(lab: Lab) -> None:
    recipe = with_card(lab)
    forward = recipe.ssh_local()
    holder = client(recipe.guest, "hold\tVirtual PCD 00 00", forward.socket)
    holder.wait_for("held")
    lab.network.unplug(recipe.guest)
    local = client(recipe.host, "hold\tVirtual PCD 00 00", None)
    assert_hangs(local)


# --- GnuPG


def test_gpg_agent_keeps_the_environment_it_was_started_with(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    forward = recipe.ssh_local()
    gpg = Gpg(recipe.guest, recipe.guest.home / "nothing-here")
    assert "No such device" in gpg.card_status().err or "No SmartCard daemon" in gpg.card_status().err
    gpg.use(forward.socket)
    assert gpg.card_status().code != 0, "the agent still has the old variable"
    gpg.stop()
    assert "OpenPGP" in gpg.card_status().check().out


def test_scdaemon_opens_the_card_exclusively_and_keeps_it(lab: Lab) -> None:
    recipe = Recipe(lab)
    openpgp_card(recipe.pcscd)
    forward = recipe.ssh_local()
    gpg = Gpg(recipe.guest, forward.socket)
    gpg.card_status().check()
    apdu = "apdu\tVirtual PCD 00 00\t00A40400"
    assert recipe.host.pcsc(apdu)["error"] == SHARING_VIOLATION
    gpg.stop()
    wait_until(lambda: "answers" in recipe.host.pcsc(apdu), "scdaemon has let go")
    shared = Gpg(recipe.guest, forward.socket, options=("pcsc-shared",), name="shared")
    shared.card_status().check()
    assert "answers" in recipe.host.pcsc(apdu)


#: What libusb does first when a program asks for USB devices.
_LOOKS_FOR_USB = "NETLINK_KOBJECT_UEVENT"


def test_scdaemon_needs_disable_ccid_to_use_pcsc(lab: Lab) -> None:
    recipe = Recipe(lab)
    gpg = Gpg(recipe.guest)
    config = gpg.home / "scdaemon.conf"
    trace = recipe.guest.home / "trace"
    command: Command = ["strace", "-f", "-e", "trace=openat,socket", "-o", trace, "/usr/lib/gnupg/scdaemon", "--server"]

    def calls() -> str:
        env = {"GNUPGHOME": str(gpg.home), "PCSCLITE_CSOCK_NAME": "/nowhere"}
        recipe.guest.run(command, env, stdin="SERIALNO\nBYE\n").check()
        return trace.read_text()

    assert "disable-ccid" in config.read_text()
    assert _LOOKS_FOR_USB not in calls()
    config.write_text("")
    assert _LOOKS_FOR_USB in calls(), "its own driver looks at USB first; a reader found there never gets to PC/SC"


def wait_until_idle(process: Running) -> None:
    """Wait until the process sleeps in poll(2) (or ppoll), and goes on sleeping: it waits for an event."""
    asleep = 0

    def settled() -> bool:
        nonlocal asleep
        call = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
        asleep = asleep + 1 if call in ("7", "271") else 0
        return asleep >= 20

    wait_until(settled, f"it waits: {process}")


def test_sshd_can_be_told_to_clean_up(lab: Lab) -> None:
    """Only the server's own setting helps against stale sockets, and it opens the door to silent replacement."""
    guest, host = lab.computer("guest"), lab.computer("host")
    sshd = Sshd(guest, {"StreamLocalBindUnlink": "yes"})
    config = sshd.config(host)
    socket = guest.home / "stale"
    guest.run(
        [PLAIN_PYTHON, "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({str(socket)!r})"],
    ).check()
    ssh = host.popen(["ssh", "-F", config, "-N", "-R", f"{socket}:/nowhere", "-o", "ExitOnForwardFailure=yes", "guest"])
    wait_until(lambda: accepts(guest.outside(socket)) or ssh.code is not None, "sshd listens")
    assert ssh.code is None
