"""OpenSSH as a carrier: the user's own ssh as a child process, with its configuration, agents, jump hosts and prompts.

`connect` opens one connection to a host and keeps it; `forward_pcscd` brings that host's pcscd here (``ssh -L``),
`RemoteSocket` offers a socket of ours there (``ssh -R``), `open_session` runs a command there whose standard streams
are a pipe. But for that command, the other side needs sshd and a POSIX shell, nothing else.
"""

from cardferry.transports.ssh.command import SshCommand
from cardferry.transports.ssh.connection import SshConnection, connect
from cardferry.transports.ssh.errors import NoShellError, SshError
from cardferry.transports.ssh.remote_pcscd import forward_pcscd
from cardferry.transports.ssh.remote_socket import RemoteSocket
from cardferry.transports.ssh.session import SessionError, open_alone, open_session, open_session_streams

__all__ = [
    "NoShellError",
    "RemoteSocket",
    "SessionError",
    "SshCommand",
    "SshConnection",
    "SshError",
    "connect",
    "forward_pcscd",
    "open_alone",
    "open_session",
    "open_session_streams",
]
