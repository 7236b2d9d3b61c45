"""Other processes of this user, and children that end with us."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys

from cardferry.system.processes import command_line, environment_of, has_process, is_stopped, killed
from tests.lab.process import wait_until


def test_the_environment_of_a_process() -> None:
    with subprocess.Popen(["sleep", "60"], env={"PCSCLITE_CSOCK_NAME": "/x=y", "EMPTY": ""}) as process:
        try:
            wait_until(lambda: command_line(process.pid) == ["sleep", "60"], "it is what was started")
            assert environment_of(process.pid) == {"PCSCLITE_CSOCK_NAME": "/x=y", "EMPTY": ""}
        finally:
            process.kill()
    assert environment_of(process.pid) is None
    assert command_line(process.pid) == []


def test_whether_a_process_is_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert is_stopped(process.pid)
            process.send_signal(signal.SIGCONT)
            os.waitpid(process.pid, os.WCONTINUED)
            assert not is_stopped(process.pid)
        finally:
            process.kill()
    assert not is_stopped(process.pid)


def test_whether_a_program_runs_also_one_that_is_not_to_be_traced() -> None:
    script = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(4, 0); ctypes.CDLL(None).prctl(15, b'secretive'); print(); input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert has_process("secretive")
        process.kill()
    assert not has_process("secretive")


_PARENT = """
import subprocess, sys
from cardferry.system.processes import dies_with_parent
child = subprocess.Popen(["sleep", "60"], preexec_fn=dies_with_parent(), stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_ends_with_us() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert select.select([child], [], [], 10)[0], "the child goes on without us"
    os.close(child)


async def test_a_child_is_killed_and_one_that_has_ended_is_no_trouble() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60")
    await killed(child)
    assert child.returncode == -signal.SIGKILL
    await killed(child)


def test_a_process_is_called_as_it_likes() -> None:
    program = (
        "from cardferry.system.processes import name_this_process\n"
        "name_this_process('cardferry')\n"
        "print(open('/proc/self/comm').read(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "cardferry\n"
