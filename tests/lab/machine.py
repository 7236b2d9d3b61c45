"""A virtual machine: QEMU without hardware help, Debian's kernel, and a root of this machine's own files.

There is a USB reader in it (``usb-ccid`` with ``ccid-card-passthru``), pcscd with libccid, OpenSC, and a shell that
takes its commands from the serial line. No disk, no network. The kernel comes from the mirror that this machine's apt
uses, and stays in ``.cache/kernel``: of its package only the kernel itself and what a USB reader needs are kept.
"""

from __future__ import annotations

import gzip
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cardferry.system.locks import lock
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.process import Result, Running, run

CACHE: Final = REPOSITORY / ".cache" / "kernel"
#: Debian packages without which there is no machine.
PACKAGES: Final = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
#: s; without hardware help a kernel takes 10 s of a processor to start.
_BOOT_TIME: Final = 180.0
_MODULES: Final = ("common/usb-common", "core/usbcore", "host/xhci-hcd", "host/xhci-pci")
_BUNDLE: Final = Path("/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents")
_LIBRARIES: Final = Path("/usr/lib/x86_64-linux-gnu")
#: Programs, and libraries that programs load by name.
_BINARIES: Final = (
    *(Path("/usr/bin", name) for name in ("opensc-tool", "pkcs11-tool", "openssl", "piv-tool")),
    Path("/usr/sbin/pcscd"),
    *(_LIBRARIES / name for name in ("opensc-pkcs11.so", "libpcsclite.so.1", "libgcc_s.so.1")),
    _BUNDLE / "Linux" / "libccid.so",
)
_FILES: Final = (_BUNDLE / "Info.plist", Path("/etc/libccid_Info.plist"))
#: Without udev nobody tells pcscd of a reader that comes later: it is started when the reader is there.
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin LANG=C.UTF-8 HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in MODULES; do insmod /modules/$module.ko; done
until grep -qs QEMU /sys/bus/usb/devices/*/manufacturer; do sleep 0.1; done
pcscd --foreground --apdu --debug >/tmp/pcscd.log 2>&1 &
until [ -S /run/pcscd/pcscd.comm ]; do sleep 0.1; done
stty -echo
echo MACHINE READY
while read -r line; do
    eval "$line" >/tmp/out 2>&1
    code=$?
    cat /tmp/out
    echo "MACHINE DONE $code"
done
"""


def missing() -> list[str]:
    """What a machine lacks here, for people; empty when it can be built."""
    lacks = [f"{name} (Debian package {package})" for name, package in PACKAGES.items() if not shutil.which(name)]
    return lacks if platform.machine() == "x86_64" else [*lacks, "a processor of the kind amd64"]


def kernel() -> Path:
    """The folder with ``vmlinuz`` and the modules; downloads them when they are not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as handle:
        lock(handle.fileno())
        if not (CACHE / "complete").exists():
            _download()
    return CACHE


def _download() -> None:
    depends = run(["apt-cache", "depends", "linux-image-amd64"]).check().out
    package = re.findall(r"Depends: (linux-image-\S+)", depends)[0]
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        # as root, because apt's own user cannot write here
        download = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package]
        subprocess.run(download, cwd=folder, check=True, capture_output=True)
        (deb,) = folder.glob("*.deb")
        release = package.removeprefix("linux-image-")
        modules = [f"./lib/modules/{release}/kernel/drivers/usb/{module}.ko" for module in _MODULES]
        members = [f"./boot/vmlinuz-{release}", *modules]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacked:
            subprocess.run(["tar", "-x", "-C", folder, *members], stdin=unpacked.stdout, check=True)
        for member in members:
            path = folder / member
            path.rename(CACHE / ("vmlinuz" if "vmlinuz" in path.name else path.name))
    (CACHE / "complete").touch()


def _root(folder: Path, programs: Sequence[Path]) -> None:
    """The files of the machine."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "root", "modules", "run/pcscd"):
        (folder / name).mkdir(parents=True)
    wanted = {*_FILES, *_BINARIES}
    for binary in _BINARIES:
        lines = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout.split()
        wanted |= {Path(word) for word in lines if word.startswith("/")}
    for path in wanted:
        target = folder / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)  # follows links
    for program in (*programs, Path(shutil.which("busybox") or "busybox")):
        shutil.copy(program, folder / "bin" / program.name)
    names = [Path(module).name for module in _MODULES]
    for name in names:
        shutil.copy(kernel() / f"{name}.ko", folder / "modules")
    init = folder / "init"
    init.write_text(_INIT.replace("MODULES", " ".join(names)))
    init.chmod(0o755)


def _archive(root: Path, target: Path) -> None:
    """A root folder as the kernel takes it."""
    files = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    pack = ["busybox", "cpio", "-o", "-H", "newc"]
    packed = subprocess.run(pack, cwd=root, input=files.encode(), capture_output=True, check=True).stdout
    target.write_bytes(gzip.compress(packed, 1))


class Machine:
    """A machine in a computer of the lab, started; `wait_until_up` before it is used.

    Args:
        computer: where its QEMU runs.
        programs: more for it, which need no other libraries than those that are there.

    Attributes:
        socket: where QEMU listens for whoever has a card.
    """

    def __init__(self, computer: Computer, programs: Sequence[Path] = ()) -> None:
        self.socket = computer.folder / "ccid"
        initrd = computer.folder / "initrd"
        root = computer.folder / "root"
        root.mkdir()
        _root(root, programs)
        _archive(root, initrd)
        self.process: Running = computer.popen(self._command(initrd), stdin=True)

    def _command(self, initrd: Path) -> list[str | Path]:
        listening = f"socket,id=ccid,path={self.socket},server=on,wait=off"
        return [
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults"),
            *("-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", kernel() / "vmlinuz", "-initrd", initrd, "-append", "console=ttyS0 quiet mitigations=off"),
            *("-chardev", listening, "-device", "qemu-xhci", "-device", "usb-ccid"),
            *("-device", "ccid-card-passthru,chardev=ccid"),
        ]

    def wait_until_up(self) -> None:
        """Wait until its shell takes commands."""
        self.process.wait_for("MACHINE READY", timeout=_BOOT_TIME)

    def start(self, command: str) -> None:
        """Begin a line of shell in it."""
        self.process.write(command + "\n")

    def finish(self, timeout: float = 60.0) -> Result:
        """How the line that was begun last has ended."""
        code = self.process.wait_for(r"MACHINE DONE (\d+)", timeout=timeout)
        said = self.process.out.text.rpartition("MACHINE DONE")[0].rpartition("MACHINE ")[2]
        return Result(("machine",), int(code[1]), said.partition("\n")[2], "", 0.0)

    def run(self, command: str, timeout: float = 60.0) -> Result:
        """Run a line of shell in it."""
        self.start(command)
        return self.finish(timeout)
