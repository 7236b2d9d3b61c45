"""The authority and the guests of this account, where it is a host."""

from __future__ import annotations

import re
import socket

from cardferry.transports.tls.files import data_folder, host_folder
from cardferry.transports.tls.identity import Host


def own_host() -> Host:
    """See the module. Raises `TlsError` or `FolderUnsafeError` when what is there cannot be used."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip(".-")[:63] or "host"
    data_folder()
    return Host(host_folder(), name)
