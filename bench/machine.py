"""What a run ran on, in words that tell a reader what to expect of the figures and nothing else."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """For instance "2-core virtual machine (x86_64), Linux 6.1"."""
    cores = len(os.sched_getaffinity(0))
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kind = "virtual machine" if virtual else "computer"
    kernel = ".".join(re.findall(r"\d+", platform.release())[:2])
    return f"{cores}-core {kind} ({platform.machine()}), Linux {kernel}"


def versions() -> dict[str, str]:
    """Of the programs that take part."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    openssh = re.search(r"OpenSSH_([\d.]+p?\d*)", said)
    packages = {"pcsc-lite": "pcscd", "vpcd": "vsmartcard-vpcd", "OpenSC": "opensc"}
    return {
        "OpenSSH": openssh.group(1) if openssh else "unknown",
        **{name: _package(package) for name, package in packages.items()},
        "Python": platform.python_version(),
        "uvloop": version("uvloop"),
    }


def _package(name: str) -> str:
    said = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Version}", name], capture_output=True, text=True, check=False
    )
    return re.sub(r"[-+~].*", "", said.stdout) or "unknown"
