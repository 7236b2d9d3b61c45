"""A link over the standard streams of any command: here `nsenter`, which starts the cardferry of another computer."""

from __future__ import annotations

import os
import shlex
import signal

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import STDIO, link_of, processes, wait_for_resume
from tests.lab.pcscd import Pcscd
from tests.lab.process import wait_until

READER = "Virtual PCD 00 00"


def test_a_command_is_the_way_to_a_host(lab: Lab) -> None:
    """No ssh, no network, no folder that both see; what breaks is mended, and stop leaves nothing of it."""
    host, guest = lab.computer("host"), lab.computer("box")
    fake_card(Pcscd(host))
    into = shlex.join(host.command([CARDFERRY, "host", "--stdio"]))
    name = f"exec:{shlex.join(['sh', '-c', f'cat | {into} | cat'])}"
    found = cardferry(guest, "doctor", name).out
    assert f"link to {name}: it works" in found
    assert READER in found

    ferry = Ferry(guest, ["attach", name])
    holder = guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket)
    assert holder.get("answers") == ["9000"], holder
    link = link_of(guest, "attach")
    assert (link.host, link.way, link.state) == (name, "link", "up")
    assert link_of(host, "host").host.startswith("a guest on this computer")
    assert name in cardferry(guest, "status").check().out

    os.kill(processes(guest, "^cat")[0], signal.SIGKILL)
    wait_for_resume(guest, "attach")
    assert guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket).get("answers") == ["9000"]

    assert ferry.stop().code == 0
    wait_until(lambda: not processes(host, STDIO) and not processes(guest, "^cat"), "the command has ended")
    wait_until(lambda: link_of(host, "host").guest is None, "the guest has gone")


def test_a_command_that_cannot_get_there(lab: Lab) -> None:
    box = lab.computer("box")
    command = "nsenter --target=1999999999 --net -- cardferry host --stdio"
    told = cardferry(box, "attach", f"exec:{command}")
    assert told.code == 36
    assert f"error: `{command}` has ended with exit status 1: " in told.err
    assert f"hint: try it by itself: {command}" in told.err
