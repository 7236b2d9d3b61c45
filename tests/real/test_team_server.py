"""``docs/server.md``: its files and its lines, typed on two hosts and three guests that reach each other by name."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.lab import Lab
from tests.lab.cards import piv_card
from tests.lab.computer import CARDFERRY, REPOSITORY, Computer
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, Running, wait_until

_PAGE = (REPOSITORY / "docs" / "server.md").read_text()
_BLOCK = re.compile(r"^```(toml|sh)\n(?:# on ([^\n]*)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)
_ALONE = ", in a terminal of its own"
HOSTS, GUESTS = ("lab1", "lab2"), ("build1", "build2", "build3")


class Team:
    """The computers of the page; a person at each."""

    def __init__(self, lab: Lab) -> None:
        self.computers = {name: lab.computer(name) for name in (*HOSTS, *GUESTS)}
        names = lab.folder / "hosts"
        names.write_text(
            "".join(f"{one.address} {name}\n" for name, one in self.computers.items()) + "127.0.0.1 localhost\n"
        )
        for name, one in self.computers.items():
            one.holder.mount_bind(names, "/etc/hosts")
            if name in HOSTS:
                piv_card(Pcscd(one))
            else:
                (one.home / "release.tar").write_text("a release")
        self.blocks = iter(_BLOCK.findall(_PAGE))
        self.terminals: dict[str, Running] = {}
        self.joins: dict[str, list[str]] = {name: [] for name in GUESTS}

    def configures(self, *names: str) -> None:
        """Write the page's next file on these."""
        kind, _, text = next(self.blocks)
        assert kind == "toml"
        for name in names:
            computer = self.computers[name]
            path = computer.home / ".config" / "cardferry" / "config.toml"
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(text.replace("local-user:signing", f"local-user:{computer.user}"))
            path.chmod(0o600)

    def types(self, having: str) -> dict[str, Result]:
        """Type the page's next lines where it says, all in one shell; each must succeed."""
        kind, where, script = next(self.blocks)
        assert kind == "sh"
        assert having in script
        names = where.removesuffix(_ALONE).split(", ")
        if where.endswith(_ALONE):
            for name in names:
                self.terminals[name] = self.computers[name].popen(shlex.split(self._found(script)))
            return {}
        return {name: self._typed(self.computers[name], self._joined(name, script)) for name in names}

    def _joined(self, name: str, script: str) -> str:
        """The lines that hosts have printed, in the place of those in the page that show how such a line looks."""
        if name not in self.joins or "cardferry join" not in script:
            return script
        assert len(script.splitlines()) == len(self.joins[name])
        return "\n".join(self.joins[name])

    @staticmethod
    def _found(script: str) -> str:
        return script.replace("cardferry", str(CARDFERRY), 1)

    @staticmethod
    def _typed(computer: Computer, script: str) -> Result:
        path = f"{CARDFERRY.parent}:{computer.env['PATH']}"
        return computer.run(["bash", "-euo", "pipefail", "-c", script], {"PATH": path}, timeout=90).check()


@pytest.fixture
def team(lab: Lab) -> Team:
    return Team(lab)


def test_from_nothing_to_a_pool_of_two_hosts_with_three_guests(team: Team) -> None:
    team.configures(*HOSTS)
    for said in team.types("config check").values():
        assert "rule 1 allows it" in said.out
    team.types("cardferry host")
    for name in HOSTS:
        host = team.terminals[name]
        host.wait_for("rules in .*config.toml", stream="err")
        host.wait_for("metrics for Prometheus are at http://127.0.0.1:7766/metrics", stream="err")
        host.wait_for("the page is at http://127.0.0.1:7765", stream="err")
    for said in team.types("cardferry invite").values():
        for line in said.out.splitlines():
            team.joins[line.split("/")[-3]].append(f"cardferry join {line}")
    team.types("cardferry join")
    team.configures(*GUESTS)
    team.types("cardferry attach")
    for name in GUESTS:
        team.terminals[name].wait_for("^ready ")
    for name, said in team.types("pkcs11-tool").items():
        assert "signing" in said.out
        assert said.out.count("up, a member of pool:signing") == len(HOSTS)
        assert (team.computers[name].home / "release.sig").stat().st_size == 64
    told = team.types("audit show")
    everything = "".join(said.out for said in told.values())
    assert everything.count("signed with PIV 9C") == len(GUESTS), everything
    for name, said in told.items():
        for guest in GUESTS:
            assert f"tls:{guest}" in said.out, name
        assert 'cardferry_card_present{reader="Virtual PCD 00 00"} 1.0' in said.out
    team.types("guests remove")
    gone = team.computers["build3"]
    wait_until(lambda: "up, a member" not in gone.run([CARDFERRY, "status"]).out, "both hosts have cut it off")
    assert "up, a member" in team.computers["build1"].run([CARDFERRY, "status"]).out
