"""README's part "Use it", line by line as it stands there, by somebody who is new and not root."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from tests.lab import Computer, Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import REPOSITORY, SECOND_UID, SECOND_USER
from tests.lab.namespaces import is_root
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, Running, run, wait_until
from tests.lab.sshd import Sshd

README = (REPOSITORY / "README.md").read_text()
_MODULE = "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
#: Who walks, where the lab is root's: not root.
_USER, _UID = (SECOND_USER, SECOND_UID) if is_root() else ("", os.geteuid())


def block(start: str) -> list[str]:
    """The lines of README's block for a shell whose first line starts so."""
    (found,) = [one for one in re.findall(r"(?:^    .*\n)+", README, re.MULTILINE) if one.strip().startswith(start)]
    return [line.strip() for line in found.splitlines()]


def open_the_way(computer: Computer) -> None:
    """Whoever may not enter the folders that Python and this project are in (as ``/root``) may enter copies of them."""
    kept = {Path(one).resolve() for one in (REPOSITORY, sys.prefix, sys.base_prefix)}
    closed = {path: [above for above in path.parents if not above.stat().st_mode & 0o001] for path in kept}
    aside = {path: Path(f"/run/aside{number}") for number, path in enumerate(kept) if closed[path]}
    for path, there in aside.items():
        computer.holder.ask("mkdir", there, "755")
        computer.holder.mount_bind(path, there)
    for folder in {closed[path][-1] for path in aside}:
        computer.hide(folder)
    for path, there in aside.items():
        computer.run(["mkdir", "-p", path]).check()
        computer.holder.mount_bind(there, path)


class Newcomer:
    """A person at a computer, with a home, a clone in it whose ``make setup`` was done, and a key for ssh.

    Args:
        computer: where.
        key: of the person, the same at each computer.
    """

    def __init__(self, computer: Computer, key: Path) -> None:
        self.computer = computer
        self.name = _USER or computer.user
        if _USER:
            open_the_way(computer)
        self.home, self.runtime = Path("/tmp/newcomer"), Path(f"/run/user/{_UID}")
        accounts = computer.folder / "passwd"
        account = rf"^({self.name}:.*):[^:]*:(/bin/bash)$"
        accounts.write_text(re.sub(account, rf"\1:{self.home}:\2", accounts.read_text(), flags=re.MULTILINE))
        computer.run(["mkdir", "-p", "-m", "700", self.home / ".ssh", self.home / "cardferry", self.runtime]).check()
        self.outside = computer.outside(self.home)
        (self.outside / "cardferry" / ".venv").symlink_to(sys.prefix)
        (self.outside / ".ssh" / "id_ed25519").write_bytes(key.read_bytes())
        (self.outside / ".ssh" / "id_ed25519").chmod(0o600)
        computer.run(["chown", "-R", f"{_UID}:{_UID}", self.home, self.runtime]).check()
        settings = {"XDG_RUNTIME_DIR": str(self.runtime)}
        self.sshd = Sshd(computer, {"AuthorizedKeysFile": str(self.home / ".ssh" / "authorized_keys")}, settings)
        (self.outside / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())

    def can_ssh(self, there: Newcomer, name: str) -> None:
        """``ssh NAME`` goes there: a few lines in ``~/.ssh/config``, and the key of that computer is known."""
        key = there.sshd.host_key.with_suffix(".pub").read_text()
        lines = f"Host {name}\n  HostName {there.computer.address}\n  Port 2222\n  HostKeyAlias {name}\n"
        for file, text in (("config", lines), ("known_hosts", f"{name} {key}")):
            with (self.outside / ".ssh" / file).open("a") as writing:
                writing.write(text)

    def _shell(self, lines: list[str], folder: str) -> tuple[list[str | Path], dict[str, str]]:
        become = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups"] if _USER else []
        script = "\n".join(lines)
        env = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "XDG_RUNTIME_DIR": str(self.runtime)}
        # at the next login Debian has it in PATH
        return ["env", f"--chdir={self.home / folder}", *become, "bash", "-ec", script], {
            **env,
            "PATH": f"{self.home}/.local/bin:{self.computer.env['PATH']}",
        }

    def types(self, *lines: str, folder: str = ".") -> Result:
        """These lines in a new shell, to their end; each must succeed."""
        return self.computer.run(*self._shell([*lines], folder)).check()

    def starts(self, line: str) -> Running:
        """This line in a new shell that is left open; returns when it says that it is ready."""
        running = self.computer.popen(*self._shell([f"exec {line}"], "."))
        running.wait_for("^ready ")
        return running


def test_readme_line_by_line(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]).check()
    laptop, build1, build2 = (Newcomer(lab.computer(name), key) for name in ("laptop", "build1", "build2"))
    pcscd = Pcscd(laptop.computer)
    piv_card(pcscd)
    for build in (build1, build2):
        laptop.can_ssh(build, build.computer.name)
    build1.can_ssh(laptop, "laptop")
    build1.can_ssh(build2, "server")

    _, install = block("git clone")
    assert install.startswith("uv tool install ./cardferry ")  # `test_wheel.py` does that
    assert block("cd cardferry") == ["cd cardferry && make demo"]  # `make` was run by who runs this
    make, *setup = block("make setup")
    assert make.split()[:2] == ["make", "setup"]
    build1.types(*setup, "command -v cardferry", folder="cardferry")

    attach, *programs = block("cardferry attach laptop")
    attached = build1.starts(attach)  # the laptop has no command `cardferry` yet: "nothing else"
    told = build1.types(*programs, "cardferry status", "cardferry readers", "cardferry doctor laptop").out
    assert "Certificate Object" in told
    assert told.count("Virtual PCD 00 00") == 4, told
    attached.stop()

    laptop.types(*setup, folder="cardferry")
    attached = build1.starts(attach)
    assert "link" in build1.types(*programs, "cardferry status").out
    attached.stop()

    (share,) = block("cardferry share build1 build2")
    shared = laptop.starts(share)
    wait_until(lambda: shared.out.text.count("\nexport ") == 2, f"both are ready: {shared}")
    for build in (build1, build2):
        (export,) = re.findall(rf"^ready .* on {build.computer.name}\n(export .*)$", shared.out.text, re.MULTILINE)
        assert "Virtual PCD 00 00" in build.types(export, "opensc-tool --list-readers").out
    shared.stop()

    (single,) = block("cardferry run --from laptop")
    assert _MODULE in single
    module = str(next(Path("/usr/lib").glob("*/opensc-pkcs11.so")))
    asking = build1.home / "asking"
    build1.types(f"printf '#!/bin/sh\\necho {PIV_PIN}\\n' >{asking}", f"chmod 700 {asking}")
    keys = build1.types(f"cardferry run --from laptop -- ssh-keygen -D {module}").out
    (build2.outside / ".ssh" / "authorized_keys").write_text(keys)
    words = f"export SSH_ASKPASS={shlex.quote(str(asking))} SSH_ASKPASS_REQUIRE=force"
    assert build1.types(words, f"{single.replace(_MODULE, module)} hostname").out == "build2\n"
