"""Against a real sshd: what works, and each way in which it can fail."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from cardferry.transports.errors import (
    PcscdDownError,
    PcscdMissingError,
    PcscdRefusesError,
    TransportError,
)
from cardferry.transports.sockets import FolderUnsafeError, NotASocketError, PathUnusableError, SocketTakenError
from cardferry.transports.ssh import RemoteSocket, SshCommand, SshConnection, connect, errors, forward_pcscd
from tests.lab import Computer, Lab
from tests.lab.process import run, wait_until
from tests.lab.sshd import Sshd

pytestmark = pytest.mark.real


class Pair:
    """Two computers; ssh on the first reaches the second."""

    def __init__(self, lab: Lab, options: dict[str, str] | None = None, env: dict[str, str] | None = None) -> None:
        self.here = lab.computer("here")
        self.there = lab.computer("there")
        self.sshd = Sshd(self.there, options, env)
        self.network = lab.network
        self.scratch = lab.folder / "scratch"
        self.scratch.mkdir(mode=0o700)

    def ssh(self, **arguments: object) -> SshCommand:
        """The ssh of the first computer, as a command for this process."""
        config = self.sshd.config(self.here, **arguments)  # type: ignore[arg-type]
        return SshCommand(tuple(self.here.command(["ssh", "-F", config])))

    @asynccontextmanager
    async def connected(self, destination: str = "there", **arguments: object) -> AsyncIterator[SshConnection]:
        async with connect(destination, self.ssh(**arguments), self.scratch) as connection:
            yield connection


@pytest.fixture
def pair(lab: Lab) -> Pair:
    return Pair(lab)


async def failure(pair: Pair, destination: str = "there", **arguments: object) -> TransportError:
    with pytest.raises(TransportError) as raised:
        async with pair.connected(destination, **arguments):
            pass
    return raised.value


def listen_in(computer: Computer, path: str) -> socket.socket:
    """A socket that listens at a path of a computer."""
    one = socket.socket(socket.AF_UNIX)
    outside = computer.outside(path)
    folder = os.open(outside.parent, os.O_RDONLY)
    try:
        one.bind(f"/proc/self/fd/{folder}/{outside.name}")
    finally:
        os.close(folder)
    one.listen()
    return one


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_the_other_side_is_known(pair: Pair) -> None:
    async with pair.connected() as connection:
        facts = connection.facts
    assert facts.uid == os.geteuid()
    assert facts.runtime == str(pair.there.runtime)
    assert facts.terminal
    assert facts.pcscd == ""
    assert facts.session > 0


async def test_nothing_is_left_when_it_ends(pair: Pair) -> None:
    async with pair.connected() as connection:
        pid = connection.pid
        await connection.forward_to_remote(pair.scratch / "x", "/run/x")
        session = connection.facts.session
    assert not running(pid)
    assert list(pair.scratch.iterdir()) == []
    wait_until(lambda: pair.there.run(["test", "-e", f"/proc/{session}"]).code != 0, "the sshd session ends")


async def test_the_first_session_is_a_terminal_so_that_ssh_sets_nodelay(pair: Pair) -> None:
    trace = pair.scratch / "trace"
    plain = pair.ssh().program
    where = plain.index("ssh")
    traced = SshCommand((*plain[:where], "strace", "-f", "-e", "trace=setsockopt", "-o", str(trace), *plain[where:]))
    async with connect("there", traced, pair.scratch) as connection:
        assert connection.facts.terminal
    assert "TCP_NODELAY, [1]" in trace.read_text()


async def test_a_host_that_gives_no_terminal_is_warned_about(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair(lab, {"PermitTTY": "no"})
    async with pair.connected() as connection:
        assert not connection.facts.terminal
        assert (await connection.ask("look", "/")).values["kind"] == "other"
    assert "gives the account no terminal" in caplog.text


async def test_settings_for_people_do_not_disturb(pair: Pair) -> None:
    options = {
        "RemoteCommand": "echo no",
        "RequestTTY": "no",
        "LocalForward": "127.0.0.1:9999 127.0.0.1:9",
        "ControlMaster": "auto",
        "ControlPath": str(pair.scratch / "other"),
        "ControlPersist": "10m",
        "ForwardAgent": "yes",
        "EscapeChar": ".",
        "LogLevel": "QUIET",
    }
    async with pair.connected(options=options) as connection:
        assert connection.facts.terminal
        assert not (pair.scratch / "other").exists()
    assert list(pair.scratch.iterdir()) == []


async def test_one_session_is_enough_for_the_server(lab: Lab) -> None:
    pair = Pair(lab, {"MaxSessions": "1"})
    async with pair.connected() as connection:
        await connection.forward_to_remote(pair.scratch / "x", "/run/x")
        assert (await connection.ask("look", "/run")).values["kind"] == "other"


async def test_a_noisy_shell_start_file_is_no_obstacle(pair: Pair) -> None:
    pair.there.home.joinpath(".bashrc").write_text("echo Welcome to this computer; printf 'without an end'\n")
    async with pair.connected() as connection:
        assert connection.facts.uid == os.geteuid()


# Ways to fail before anybody is logged in


async def test_unknown_host(pair: Pair) -> None:
    error = await failure(pair, address="no-such-computer.invalid")
    assert type(error) is errors.HostUnknownError
    assert "no-such-computer.invalid" in error.message


async def test_nobody_listens_at_the_port(pair: Pair) -> None:
    error = await failure(pair, port=9)
    assert type(error) is errors.HostUnreachableError
    assert "refused" in error.message


async def test_refused_key(pair: Pair) -> None:
    pair.there.outside("/run/sshd/authorized_keys").write_text("")
    error = await failure(pair)
    assert type(error) is errors.AccessRefusedError
    assert "Permission denied" in error.message


async def test_unknown_host_key(pair: Pair) -> None:
    error = await failure(pair, options={"UserKnownHostsFile": "/dev/null"})
    assert type(error) is errors.HostKeyRefusedError
    assert "not known here" in error.message


async def test_changed_host_key(pair: Pair) -> None:
    known = pair.here.folder / "changed"
    known.write_text(f"there {pair.sshd.user_key.with_suffix('.pub').read_text()}")
    options = {"UserKnownHostsFile": str(known)}
    error = await failure(pair, options=options)
    assert type(error) is errors.HostKeyRefusedError
    assert "not the one that is known" in error.message
    words = shlex.split(re.search("ssh-keygen -R '.*?'", error.hint)[0])  # type: ignore[index] # it must be there
    run([*words, "-f", known]).check()
    assert "not known here" in (await failure(pair, options=options)).message


async def test_a_wrong_option(pair: Pair) -> None:
    error = await failure(pair, options={"NoSuchOption": "yes"})
    assert type(error) is errors.SshMisconfiguredError


async def test_an_account_without_a_shell(lab: Lab) -> None:
    error = await failure(Pair(lab, {"ForceCommand": "/usr/sbin/nologin"}))
    assert type(error) is errors.NoShellError


# Reaching pcscd


def offer_pcscd(pair: Pair, answer: bytes | None) -> subprocess.Popen[bytes]:
    """Something at the path of pcscd: answers with these bytes, or hangs up when they are None."""
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/pcscd/pcscd.comm'); s.listen()\n"
        "print(flush=True)\n"
        f"while True:\n    c, _ = s.accept()\n    answer = {answer!r}\n"
        "    if answer is not None: c.recv(20); c.sendall(answer)\n    c.close()\n"
    )
    process = subprocess.Popen(pair.there.command(["/usr/bin/python3", "-c", code]), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@asynccontextmanager
async def pcscd(pair: Pair, answer: bytes | None) -> AsyncIterator[None]:
    process = offer_pcscd(pair, answer)
    try:
        yield
    finally:
        process.kill()
        process.communicate()


async def reach(pair: Pair) -> None:
    async with pair.connected() as connection:
        await forward_pcscd(connection, pair.scratch / "pcscd")


async def test_a_pcscd_that_answers_is_reached(pair: Pair) -> None:
    async with pcscd(pair, bytes(12)):
        await reach(pair)


async def test_a_path_over_there_cannot_make_ssh_tell_our_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh would put the variable's value in its place, and ask the other side for that path."""
    monkeypatch.setenv("CF_SECRET", "leaked")
    path = "/tmp/${CF_SECRET}/s"
    pair = Pair(lab, env={"PCSCLITE_CSOCK_NAME": path})
    for folder in (path, "/tmp/leaked/s"):
        pair.there.outside(folder).parent.mkdir()
    with closing(listen_in(pair.there, path)), closing(listen_in(pair.there, "/tmp/leaked/s")) as leak:
        leak.setblocking(False)
        with pytest.raises(PathUnusableError, match="says that its pcscd is at"):
            await reach(pair)
        with pytest.raises(BlockingIOError):
            leak.accept()


async def test_a_path_over_there_that_looks_like_a_token_is_just_a_path(lab: Lab) -> None:
    pair = Pair(lab, env={"PCSCLITE_CSOCK_NAME": "/tmp/%h:%%/s"})
    pair.there.outside("/tmp/%h:%%").mkdir()
    with closing(listen_in(pair.there, "/tmp/%h:%%/s")) as there:
        there.setblocking(False)
        async with asyncio.TaskGroup() as tasks, pair.connected() as connection:
            reaching = tasks.create_task(forward_pcscd(connection, pair.scratch / "pcscd"))
            accepted, _ = await asyncio.get_running_loop().sock_accept(there)
            with accepted:
                accepted.sendall(bytes(12))
                await reaching


async def test_no_pcscd_over_there(pair: Pair) -> None:
    with pytest.raises(PcscdMissingError) as raised:
        await reach(pair)
    assert "there is no pcscd socket on there" in raised.value.message
    assert "systemctl" in raised.value.hint


async def test_a_pcscd_socket_that_nobody_listens_on(pair: Pair) -> None:
    listen_in(pair.there, "/run/pcscd/pcscd.comm").close()
    with pytest.raises(PcscdDownError) as raised:
        await reach(pair)
    assert "systemctl restart pcscd.socket" in raised.value.hint


async def test_polkits_denial(pair: Pair) -> None:
    async with pcscd(pair, None):
        with pytest.raises(PcscdRefusesError) as raised:
            await reach(pair)
    assert "polkit" in raised.value.hint
    assert "cardferry share" in raised.value.hint


async def test_forwarding_to_sockets_refused_by_the_server(lab: Lab) -> None:
    pair = Pair(lab, {"AllowStreamLocalForwarding": "no"})
    async with pcscd(pair, bytes(12)):
        with pytest.raises(errors.ForwardingRefusedError):
            await reach(pair)


# Offering a socket


async def offer(pair: Pair, remote: RemoteSocket, connection: SshConnection) -> str:
    """Offer, and see that a connection over there arrives at our socket here."""
    front = pair.scratch / "front"
    front.unlink(missing_ok=True)
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(front))
        listening.listen()
        listening.setblocking(False)
        path = await remote.offer(connection, front, pair.scratch)
        knock = await asyncio.create_subprocess_exec(*pair.there.command(["python3", "-c", KNOCK, path]))
        accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
        accepted.close()
        await knock.wait()
    return path


KNOCK = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"


async def test_a_socket_is_offered_and_goes_with_the_connection(pair: Pair) -> None:
    async with pair.connected() as connection:
        path = await offer(pair, RemoteSocket(None, "here"), connection)
        assert path == f"{pair.there.runtime}/cardferry/here.sock"
        status = pair.there.outside(path).stat()
        assert status.st_mode & 0o777 == 0o600
        assert pair.there.outside(path).parent.stat().st_mode & 0o777 == 0o700
    assert list(pair.there.outside(path).parent.iterdir()) == []


async def test_without_a_runtime_folder_there_is_one_in_the_temporary_folder(lab: Lab) -> None:
    pair = Pair(lab, env={"XDG_RUNTIME_DIR": ""})
    run(pair.there.command(["rmdir", str(pair.there.runtime)])).check()
    async with pair.connected() as connection:
        path = await offer(pair, RemoteSocket(None, "here"), connection)
        assert path == f"/tmp/cardferry-{os.geteuid()}/here.sock"
        assert pair.there.outside(path).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("unlink", ["yes", "no"])
async def test_a_dead_socket_is_replaced_whatever_sshd_thinks(lab: Lab, unlink: str) -> None:
    pair = Pair(lab, {"StreamLocalBindUnlink": unlink})
    listen_in(pair.there, "/tmp/card.sock").close()
    async with pair.connected() as connection:
        assert await offer(pair, RemoteSocket("/tmp/card.sock", "here"), connection) == "/tmp/card.sock"


@pytest.mark.parametrize("unlink", ["yes", "no"])
async def test_a_live_socket_is_never_touched_and_its_holder_is_named(lab: Lab, unlink: str) -> None:
    pair = Pair(lab, {"StreamLocalBindUnlink": unlink})
    with closing(listen_in(pair.there, "/tmp/card.sock")):
        inode = pair.there.outside("/tmp/card.sock").stat().st_ino
        async with pair.connected() as connection:
            with pytest.raises(SocketTakenError) as raised:
                await offer(pair, RemoteSocket("/tmp/card.sock", "here"), connection)
        assert pair.there.outside("/tmp/card.sock").stat().st_ino == inode
    assert "/tmp/card.sock on there is in use by" in raised.value.message


async def test_another_cardferry_is_named(pair: Pair) -> None:
    async with pair.connected() as first:
        await offer(pair, RemoteSocket("/tmp/card.sock", "first"), first)
        (pair.scratch / "second").mkdir()
        async with connect("there", pair.ssh(), pair.scratch / "second") as second:
            with pytest.raises(SocketTakenError, match="cardferry of first since 20"):
                await RemoteSocket("/tmp/card.sock", "second").offer(
                    second, pair.scratch / "f", pair.scratch / "second"
                )
        assert pair.there.outside("/tmp/card.sock").is_socket()


async def test_what_is_no_socket_is_never_touched(pair: Pair) -> None:
    pair.there.outside("/tmp/card.sock").write_text("precious")
    async with pair.connected() as connection:
        with pytest.raises(NotASocketError):
            await offer(pair, RemoteSocket("/tmp/card.sock", "here"), connection)
    assert pair.there.outside("/tmp/card.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("remote", "kind"),
    [
        (RemoteSocket("/no/such/folder/x.sock", "here"), FolderUnsafeError),
        (RemoteSocket("/tmp/everybodys/x.sock", "here", 0o660, "0"), FolderUnsafeError),
        (RemoteSocket("/" + "x" * 107, "here"), PathUnusableError),
        (RemoteSocket("relative", "here"), PathUnusableError),
        (RemoteSocket(None, "here", 0o660, "daemon"), FolderUnsafeError),
        (RemoteSocket("/tmp/x.sock", "here", 0o660, "nosuchgroup"), PathUnusableError),
    ],
    ids=["no folder", "others may write", "too long", "relative", "unreachable for the group", "no such group"],
)
async def test_a_socket_that_cannot_be_offered(pair: Pair, remote: RemoteSocket, kind: type[TransportError]) -> None:
    pair.there.outside("/tmp/everybodys").mkdir()
    pair.there.outside("/tmp/everybodys").chmod(0o777)
    before = set(pair.there.outside("/tmp").rglob("*"))
    async with pair.connected() as connection:
        with pytest.raises(kind):
            await offer(pair, remote, connection)
    assert set(pair.there.outside("/tmp").rglob("*")) == before


async def test_mode_and_group_over_there(pair: Pair) -> None:
    gid = str(os.getegid())
    async with pair.connected() as connection:
        await offer(pair, RemoteSocket("/tmp/x.sock", "here", 0o666, gid), connection)
        assert pair.there.outside("/tmp/x.sock").stat().st_mode & 0o777 == 0o666


async def test_offering_refused_by_the_server(lab: Lab) -> None:
    pair = Pair(lab, {"AllowStreamLocalForwarding": "local"})
    async with pair.connected() as connection:
        with pytest.raises(errors.ForwardingRefusedError):
            await offer(pair, RemoteSocket("/tmp/x.sock", "here"), connection)


# Ends


async def test_ssh_killed_is_noticed_and_the_other_side_cleans_up(pair: Pair) -> None:
    async with pair.connected() as connection:
        path = await offer(pair, RemoteSocket(None, "here"), connection)
        os.kill(connection.pid, signal.SIGKILL)
        error = await connection.lost()
        with pytest.raises(TransportError):
            await connection.ask("look", "/")
    assert type(error) is errors.ConnectionLostError
    assert "lost there" in error.message
    wait_until(lambda: not pair.there.outside(path).exists(), "the guard has taken the socket away")


async def test_the_end_of_ssh_is_noticed_although_its_proxy_lives_on(pair: Pair) -> None:
    proxy = "bash -c 'sleep 60 & exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'"
    async with pair.connected(options={"ProxyCommand": proxy}) as connection:
        os.kill(connection.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            error = await connection.lost()
    assert "signal 9" in error.message


async def test_after_a_lost_connection_the_socket_is_taken_back_from_the_old_one(pair: Pair) -> None:
    """The old sshd may not know that it is alone: it is ended, and its socket replaced, without waiting for it."""
    remote = RemoteSocket("/tmp/card.sock", "here")
    async with pair.connected() as old:
        await offer(pair, remote, old)
        os.kill(old.pid, signal.SIGSTOP)
        (pair.scratch / "new").mkdir()
        async with connect("there", pair.ssh(), pair.scratch / "new") as new:
            await offer(pair, remote, new)
            session = old.facts.session
            wait_until(lambda: pair.there.run(["test", "-e", f"/proc/{session}"]).code != 0, "the old sshd ends")
            assert pair.there.outside("/tmp/card.sock").is_socket()
        os.kill(old.pid, signal.SIGCONT)


async def test_a_socket_whose_guard_is_gone_and_whose_sshd_has_not_noticed_is_replaced(pair: Pair) -> None:
    async with pair.connected() as old:
        await offer(pair, RemoteSocket("/tmp/card.sock", "old"), old)
        os.kill(old.pid, signal.SIGSTOP)
        guard = pair.there.outside("/tmp/.card.sock.owner").read_text().splitlines()[1]
        os.kill(int(guard), signal.SIGKILL)
        (pair.scratch / "new").mkdir()
        async with connect("there", pair.ssh(), pair.scratch / "new") as new:
            await offer(pair, RemoteSocket("/tmp/card.sock", "new"), new)
        os.kill(old.pid, signal.SIGCONT)


@pytest.mark.slow
async def test_a_computer_that_vanishes_frees_what_it_held_within_10_s(pair: Pair) -> None:
    """sshd knows nothing, the network says nothing: the guard misses the heartbeat and ends its session."""
    loop = asyncio.get_running_loop()
    async with pair.connected() as connection:
        held = listen_in(pair.there, "/tmp/pcscd")
        held.setblocking(False)
        await connection.forward_to_remote(pair.scratch / "x", "/tmp/pcscd")
        _, writer = await asyncio.open_unix_connection(pair.scratch / "x")
        accepted, _ = await loop.sock_accept(held)
        accepted.setblocking(False)
        pair.network.unplug(pair.here)
        vanished = loop.time()
        async with asyncio.timeout(30):
            assert await loop.sock_recv(accepted, 1) == b""
        assert loop.time() - vanished < 10
        writer.close()
        accepted.close()
        held.close()
