"""Other processes of this user, and children that end with us."""

from __future__ import annotations

import os
import select
import subprocess
import sys

from cardferry.system.processes import environments


def test_the_environments_of_a_users_processes() -> None:
    with subprocess.Popen(["sleep", "60"], env={"PCSCLITE_CSOCK_NAME": "/x=y", "EMPTY": ""}) as process:
        try:
            found = dict(environments("sleep"))
            assert found[process.pid] == {"PCSCLITE_CSOCK_NAME": "/x=y", "EMPTY": ""}
            assert os.getpid() not in found
        finally:
            process.kill()


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


def test_a_process_is_called_as_it_likes() -> None:
    program = (
        "from cardferry.system.processes import name_this_process\n"
        "name_this_process('cardferry')\n"
        "print(open('/proc/self/comm').read(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "cardferry\n"
