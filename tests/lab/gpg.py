"""GnuPG in a computer, with scdaemon over PC/SC and a pinentry that knows the PINs."""

from __future__ import annotations

from pathlib import Path

from tests.lab.cards import OPENPGP_ADMIN_PIN, OPENPGP_PIN
from tests.lab.computer import Computer
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Result

_KEY_PARAMETERS = """\
%no-protection
Key-Type: RSA
Key-Length: 2048
Key-Usage: sign
Name-Real: Lab
Name-Email: lab@example.org
Expire-Date: 0
%commit
"""


class Gpg:
    """A GNUPGHOME in a computer.

    Args:
        computer: where.
        socket: `PCSCLITE_CSOCK_NAME` for scdaemon; None is pcscd's own.
        reader: the reader to use; None lets scdaemon take the first.
        options: more lines for scdaemon.conf, such as ``pcsc-shared``.
        name: folder, for more than one home in a computer.
    """

    def __init__(
        self,
        computer: Computer,
        socket: str | Path | None = None,
        reader: str | None = None,
        options: tuple[str, ...] = (),
        name: str = "gnupg",
    ) -> None:
        self.computer = computer
        self.home = computer.home / name
        self.home.mkdir(mode=0o700)
        self._env = {"GNUPGHOME": str(self.home)}
        self.use(socket)
        lines = ["disable-ccid", *([f"reader-port {reader}"] if reader else []), *options]
        (self.home / "scdaemon.conf").write_text("\n".join(lines) + "\n")
        pinentry = self.home / "pinentry"
        pinentry.write_text(
            f"#!{PLAIN_PYTHON}\n"
            + Path(__file__)
            .with_name("pinentry.py")
            .read_text()
            .replace("@PIN@", OPENPGP_PIN)
            .replace("@ADMIN_PIN@", OPENPGP_ADMIN_PIN)
        )
        pinentry.chmod(0o755)
        (self.home / "gpg-agent.conf").write_text(f"pinentry-program {pinentry}\nmax-cache-ttl 0\n")

    def use(self, socket: str | Path | None) -> None:
        """Change the variable for programs started from now on; an agent that runs keeps what it had."""
        self._env.pop("PCSCLITE_CSOCK_NAME", None)
        if socket is not None:
            self._env["PCSCLITE_CSOCK_NAME"] = str(socket)

    def run(self, *words: str, stdin: str | None = None, timeout: float = 60.0) -> Result:
        """``gpg --batch WORDS``."""
        return self.computer.run(["gpg", "--batch", "--yes", *words], self._env, timeout, stdin)

    def card_status(self) -> Result:
        """``gpg --card-status``."""
        return self.run("--card-status")

    def make_key(self) -> str:
        """Put a fresh RSA-2048 signature key on the card; returns its fingerprint.

        It is made here and moved there (``keytocard``), because that takes a second, and generation on a card a minute.
        """
        self.run("--pinentry-mode", "loopback", "--gen-key", stdin=_KEY_PARAMETERS).check()
        fingerprint = self.fingerprint()
        # keytocard wants a conversation; --command-fd answers its questions one a line
        talk = self.computer.run(
            ["gpg", "--yes", "--no-tty", "--command-fd=0", "--status-fd=1", "--edit-key", fingerprint],
            self._env,
            stdin="keytocard\ny\n1\nsave\n",
        )
        talk.check()
        return fingerprint

    def fingerprint(self) -> str:
        """Of the first key in the ring."""
        listing = self.run("--with-colons", "--list-keys").check().out
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))

    def sign(self, text: str) -> Result:
        """A clear-text signature on standard output."""
        return self.run("--clearsign", stdin=text)

    def verify(self, signed: str) -> Result:
        """Check a signature."""
        return self.run("--verify", stdin=signed)

    def import_public(self, other: Gpg) -> None:
        """Take over the public key of another home, and learn from the card where the secret is."""
        exported = other.run("--armor", "--export").check().out
        self.run("--import", stdin=exported).check()
        self.card_status().check()

    def stop(self) -> None:
        """End this home's agent and scdaemon, the way GnuPG offers."""
        self.computer.run(["gpgconf", "--kill", "all"], self._env)
