"""The one thing that programs are told: where the socket is at which they find the readers."""

from __future__ import annotations

import os
import shlex
from typing import Final

#: What libpcsclite reads to find its socket (``winscard_clnt.c``), once per process.
VARIABLE: Final = "PCSCLITE_CSOCK_NAME"


def export_line(path: str) -> str:
    """The line for a POSIX shell, of printable characters only: it is read by people, too."""
    if path.isprintable():
        return f"export {VARIABLE}={shlex.quote(path)}"
    octal = "".join(f"\\{byte:03o}" for byte in os.fsencode(path))
    return f"""export {VARIABLE}="$(printf '{octal}')\""""
