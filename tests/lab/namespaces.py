"""Namespaces, with root's rights or in a user namespace, and the decision whether this machine offers them.

As root, `unshare` makes what a computer needs. Otherwise everything happens in one user namespace that maps the
user to himself: the holder processes keep their capabilities there, programs run as the plain user that they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.lab.process import LabError

HOLDER = Path(__file__).with_name("holder.py")
#: The system's own Python, which knows nothing of cardferry.
PLAIN_PYTHON = "/usr/bin/python3"
MS_BIND, MS_REC = 4096, 16384

#: Programs and files that the tests marked ``real`` use, and the Debian package that has each.
PARTS = {
    "/usr/sbin/pcscd": "pcscd",
    "/usr/lib/pcsc/drivers/serial/libifdvpcd.so": "vsmartcard-vpcd",
    "/usr/sbin/sshd": "openssh-server",
    "/usr/bin/ssh": "openssh-client",
    "/usr/bin/opensc-tool": "opensc",
    "/usr/bin/pcsc_scan": "pcsc-tools",
    "/usr/bin/gpg": "gnupg",
    "/usr/lib/gnupg/scdaemon": "scdaemon",
    "/usr/bin/certutil": "libnss3-tools",
    "/usr/bin/yubico-piv-tool": "yubico-piv-tool",
    "/usr/lib/*/libykcs11.so.2": "ykcs11",
    "/usr/bin/gcc": "gcc",
    "/usr/include/PCSC/ifdhandler.h": "libpcsclite-dev",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/ip": "iproute2",
    PLAIN_PYTHON: "python3",
    "/usr/bin/unshare": "util-linux",
    "/usr/bin/nsenter": "util-linux",
    "/lib/systemd/systemd": "systemd",
}


def search_path() -> str:
    """PATH inside the lab's computers."""
    return "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def is_root() -> bool:
    """Whether namespaces can be made without a user namespace."""
    return os.geteuid() == 0


@cache
def missing_parts() -> tuple[str, ...]:
    """What this machine lacks for tests marked ``real``, in words; empty when they can run."""
    missing = [
        f"{part} (Debian package {package})" for part, package in PARTS.items() if not any(Path("/").glob(part[1:]))
    ]
    if shutil.which("unshare"):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(contextlib.closing(Holder()))
            except LabError as error:
                missing.append(f"namespaces: run as root, or allow user namespaces ({error})")
    return tuple(missing)


class Holder:
    """A network namespace, with mount and host-name namespaces, held open by a process with rights inside it.

    Args:
        within: without root, the holder whose user namespace shall be around this one.
    """

    def __init__(self, within: Holder | None = None) -> None:
        outer: list[str] = []
        user: list[str] = []
        if not is_root():
            user = ["--user", "--map-current-user", "--keep-caps"]
            if within is not None:
                outer = ["nsenter", f"--target={within.pid}", "--user", "--preserve-credentials"]
        outside = str(Path("/proc/self/ns/net").readlink())
        unshare = [*outer, "unshare", *user, "--mount", "--net", "--uts"]
        self._process = subprocess.Popen(
            [*unshare, sys.executable, "-I", "-S", str(HOLDER), outside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid: int = self._read()["pid"]

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"no namespaces: {self._process.stderr.read().strip()}")
        answer: dict[str, int] = json.loads(line)
        if "error" in answer:
            raise LabError(str(answer["error"]))
        return answer

    def ask(self, action: str, *words: str | Path) -> None:
        """Have the holder do something with its rights: ``run``, ``mount``, ``mkdir`` or ``hostname``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({action: [str(word) for word in words]}) + "\n")
        self._process.stdin.flush()
        self._read()

    def ip(self, words: str) -> None:
        """Run ``ip`` in this network namespace."""
        self.ask("run", "ip", *words.split())

    def mount_tmpfs(self, target: str | Path, mode: int = 0o755) -> None:
        """Hide what is at ``target`` behind an empty file system in memory."""
        self.ask("mount", "tmpfs", target, "tmpfs", "0", f"mode={mode:o}")

    def mount_bind(self, source: str | Path, target: str | Path) -> None:
        """Show ``source``, with what is mounted in it, at ``target``."""
        self.ask("mount", source, target, "none", str(MS_BIND | MS_REC), "")

    def enter(self, argv: Sequence[str | Path], mounts: bool = True, cwd: str | Path | None = None) -> list[str]:
        """The command that runs ``argv`` in these namespaces.

        Args:
            mounts: with the mount namespace; without it only the network (and host name) is entered.
            cwd: the working folder, as seen from outside.
        """
        words = ["nsenter", f"--target={self.pid}", "--net", "--uts"]
        if mounts:
            words.append("--mount")
        if not is_root():
            words += ["--user", "--preserve-credentials"]
        if cwd is not None:
            words.append(f"--wd={cwd}")
        return [*words, "--", *(str(word) for word in argv)]

    def close(self) -> None:
        """Kill everything in the network namespace and let it go."""
        with self._process as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
