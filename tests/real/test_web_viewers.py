"""The page over TLS from another computer: for viewers who have joined and are named, whoever else knocks."""

from __future__ import annotations

import os

from tests.lab import Computer, Lab
from tests.lab.computer import CARDFERRY
from tests.lab.ferry import cardferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Result, Running, wait_until

#: Asks for the page with what `cardferry join` has brought.
_ASK = """
import http.client, pathlib, ssl, sys
folder, host = pathlib.Path(sys.argv[1]), sys.argv[2]
using = ssl.create_default_context(cafile=folder / "authority.pem")
using.check_hostname = False
if len(sys.argv) > 3:
    using.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
page = http.client.HTTPSConnection(host, 7765, context=using, timeout=20)
page.request("GET", "/")
answer = page.getresponse()
print(answer.status, answer.read().decode())
"""
#: Connects many times, says nothing, and waits for the end of the first ones.
_KNOCK = """
import socket, sys
knocking = [socket.create_connection((sys.argv[1], 7765)) for _ in range(300)]
print(sum(one.recv(1) == b"" for one in knocking[:200]), flush=True)
sys.stdin.read()
"""


def joined(host: Computer, guest: Computer, name: str) -> str:
    """Join; returns the folder with what that has brought."""
    line = cardferry(host, "invite", name, "--address", host.address).check().out.strip()
    cardferry(guest, "join", line).check()
    (folder,) = guest.outside(guest.home).glob(".local/share/cardferry/tls/joined-*")
    return str(folder)


def ask(guest: Computer, host: Computer, folder: str, *words: str) -> Result:
    return guest.run([PLAIN_PYTHON, "-c", _ASK, folder, host.address, *words])


def descriptors(agent: Running) -> int:
    """Open ones of the agent, which is entered by way of others."""
    pid = agent.pid
    while children := open(f"/proc/{pid}/task/{pid}/children").read().split():  # noqa: PTH123, SIM115 - a kernel's file
        pid = int(children[0])
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def test_who_is_named_sees_it_and_nobody_else_whoever_knocks(lab: Lab) -> None:
    host, anna, build1 = (lab.computer(name) for name in ("host", "anna", "build1"))
    page = f"{host.address}:7765"
    words = ["host", "--readers", "virtual:", "--listen", "tls::7764", "--web", page, "--web-viewer", "tls:anna"]
    agent = host.popen([CARDFERRY, *words])
    agent.wait_for(f"the page is at https://{page}", stream="err")
    hers, its = joined(host, anna, "anna"), joined(host, build1, "build1")
    before = descriptors(agent)
    knocking = build1.popen([PLAIN_PYTHON, "-c", _KNOCK, host.address], stdin=True)
    assert knocking.wait_for(r"^\d+$", timeout=30).group() == "200"
    assert descriptors(agent) - before < 100
    shown = ask(anna, host, hers, "certificate").check().out
    assert shown.startswith("200 ")
    assert "tls:anna" in shown
    assert ask(build1, host, its, "certificate").out.startswith("403 ")
    assert ask(build1, host, its).code != 0
    knocking.write("\n")
    cardferry(host, "guests", "remove", "anna").check()
    wait_until(lambda: ask(anna, host, hers, "certificate").out.startswith("403 "), "she is out")
    assert agent.stop().code == 0
