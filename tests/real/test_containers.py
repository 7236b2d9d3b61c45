"""``docs/machines/containers.md``: its own lines, in real containers made of this computer's files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import REPOSITORY, SECOND_UID
from tests.lab.ferry import Ferry
from tests.lab.namespaces import is_root
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Result

PAGE = (REPOSITORY / "docs" / "machines" / "containers.md").read_text()
READER = "Virtual PCD 00 00"
#: For a kernel that gives the lab no limits to raise, and groups of neither kind to hand out.
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
{more}
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
_STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{root}"\nrunroot = "{run}"\n'


def line(start: str) -> str:
    """The page's line that begins so."""
    (found,) = re.findall(rf"^{re.escape(start)}.*$", PAGE, re.MULTILINE)
    return str(found)


def image(path: Path) -> None:
    """A tar of `opensc-tool` and all that it loads: an image with nothing else in it."""
    library = next(Path("/usr/lib").glob("*/libpcsclite.so.1"))
    files = {Path("/usr/bin/opensc-tool"), library}
    for program in [*files]:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        files |= {Path(found) for found in re.findall(r"/\S+", said)}
    with tarfile.open(path, "w", dereference=True) as archive:
        for file in sorted(files):
            archive.add(file, str(file).lstrip("/"))


class Podman:
    """Podman in a computer, with a store of its own.

    Args:
        user: who runs it: 0, or somebody without rights.
    """

    def __init__(self, computer: Computer, user: int) -> None:
        self.computer = computer
        self.home = computer.home if user == 0 else Path(f"/run/home{user}")
        run = Path(f"/run/user/{user}")
        outside = computer.outside(self.home)
        computer.run(["mkdir", "-p", self.home, run]).check()
        (outside / "storage.conf").write_text(_STORAGE.format(root=self.home / "store", run=run / "store"))
        (outside / "containers.conf").write_text(_CONTAINERS.format(more='cgroups = "disabled"'))
        (outside / "pods.conf").write_text(_CONTAINERS.format(more=""))
        self._become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        self._env = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(run),
            "CONTAINERS_STORAGE_CONF": str(self.home / "storage.conf"),
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
        }
        computer.run(["chown", "-R", f"{user}:{user}", self.home, run]).check()

    def types(self, line: str, **env: str) -> Result:
        """Run a line of the page."""
        script = f"cd {shlex.quote(str(REPOSITORY))}; {line}"
        return self.computer.run([*self._become, "bash", "-euc", script], {**self._env, **env}).check()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computer]:
    """A computer with a reader and an image."""
    if not is_root():
        pytest.fail("containers need root, to be two users and to have groups of processes", pytrace=False)
    with Lab() as lab:
        computer = lab.computer("machine")
        computer.holder.ask("mount", "cgroup2", "/sys/fs/cgroup", "cgroup2", "0", "")
        computer.holder.mount_tmpfs("/dev/shm", 0o1777)  # where Podman has its locks
        computer.run(["mkdir", "-p", "/run/cdi"]).check()
        fake_card(Pcscd(computer))
        image(computer.outside("/run/cards.tar"))
        yield computer


@pytest.mark.parametrize("user", [0, SECOND_UID], ids=["root", "rootless"])
def test_a_container_sees_the_reader_by_one_mount_and_one_variable_or_by_cdi(machine: Computer, user: int) -> None:
    podman = Podman(machine, user)
    podman.types("podman import /run/cards.tar localhost/cards")
    podman.types(line("mkdir -m 700"))
    cards = podman.home / "cards"
    machine.run(["chown", "0:0", podman.home, cards]).check()  # the lab's cardferry is root's ...
    ferry = Ferry(machine, ["attach", f"pcscd:{SOCKET}", "--socket", str(cards / "card.sock")])
    machine.run(["chown", "-R", f"{user}:{user}", podman.home, cards]).check()
    try:
        assert READER in podman.types(line("podman run --rm -v")).out
        filled = line('sed "s|').replace("sudo tee /etc/cdi", "tee /run/cdi")
        machine.run(["bash", "-euc", f"cd {REPOSITORY}; {filled}"], {"HOME": str(podman.home)}).check()
        assert READER in podman.types(line("podman run --rm --device")).out
    finally:
        podman.types("podman system migrate")  # ends what holds a rootless user's namespace
        ferry.stop()


def test_compose_and_kubernetes_examples_are_read_and_mean_the_mount_and_the_variable(machine: Computer) -> None:
    podman = Podman(machine, 0)
    podman.types("podman import /run/cards.tar localhost/cards")
    composed = podman.types(line("CARDS=").replace("podman-compose", "podman-compose --dry-run")).out
    assert f"-e PCSCLITE_CSOCK_NAME=/run/cards/card.sock -v {podman.home}/cards:/run/cards " in composed
    machine.run(["mkdir", "-p", podman.home / "cards"]).check()
    made = line("podman play kube").replace("docs/machines/kubernetes.yaml", "--start=false --network none -")
    example = f"sed 's|/var/lib/cards|{podman.home}/cards|' docs/machines/kubernetes.yaml"
    pods = {"CONTAINERS_CONF": str(podman.home / "pods.conf")}
    podman.types(f"{example} | {made}", **pods)
    (pod,) = json.loads(podman.types("podman inspect signer-program", **pods).out)
    assert "PCSCLITE_CSOCK_NAME=/run/cards/card.sock" in pod["Config"]["Env"]
    assert (f"{podman.home}/cards", "/run/cards") in [(one["Source"], one["Destination"]) for one in pod["Mounts"]]
