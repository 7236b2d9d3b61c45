"""GnuPG in a computer, with scdaemon over PC/SC and a pinentry that knows the PINs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.cards import OPENPGP_ADMIN_PIN, OPENPGP_PIN
from tests.lab.computer import Computer
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import LabError, Result

#: Answers to ``gpg --card-edit``, one a line: no backup of the encryption key, no expiry, name, address, no comment.
_GENERATE = "admin\ngenerate\nn\n0\nLab Person\nlab@example.org\n\nquit\n"


def configure_pinentry(home: Path, *options: str) -> None:
    """Have a GNUPGHOME use a pinentry that knows the PINs; ``options`` are more lines for gpg-agent.conf."""
    pinentry = home / "pinentry"
    pins = {"@PIN@": OPENPGP_PIN, "@ADMIN_PIN@": OPENPGP_ADMIN_PIN}
    program = Path(__file__).with_name("pinentry.py").read_text()
    for mark, pin in pins.items():
        program = program.replace(mark, pin)
    pinentry.write_text(f"#!{PLAIN_PYTHON}\n{program}")
    pinentry.chmod(0o755)
    (home / "gpg-agent.conf").write_text("\n".join((f"pinentry-program {pinentry}", *options)) + "\n")


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
        configure_pinentry(self.home, "max-cache-ttl 0")

    def use(self, socket: str | Path | None) -> None:
        """Change the variable for programs started from now on; an agent that runs keeps what it had."""
        self._env.pop("PCSCLITE_CSOCK_NAME", None)
        if socket is not None:
            self._env["PCSCLITE_CSOCK_NAME"] = str(socket)

    @property
    def env(self) -> dict[str, str]:
        """What leads programs of GnuPG to this home, and to the card."""
        return dict(self._env)

    def run(self, *words: str, stdin: str | None = None, timeout: float = 60.0) -> Result:
        """``gpg --batch WORDS``."""
        return self.computer.run(["gpg", "--batch", "--yes", *words], self._env, timeout, stdin)

    def card_status(self) -> Result:
        """``gpg --card-status``."""
        return self.run("--card-status")

    def make_keys(self) -> str:
        """Have the card generate its three keys; returns the fingerprint of the signature key."""
        edit = ["gpg", "--no-tty", "--command-fd=0", "--status-fd=1", "--card-edit"]
        talk = self.computer.run(edit, self._env, stdin=_GENERATE)
        if "KEY_CREATED" not in talk.out:
            raise LabError(f"no keys: {talk}")
        return self.fingerprint()

    def signature_counter(self) -> int:
        """How many signatures the card has made."""
        line = re.search(r"^Signature counter : (\d+)$", self.card_status().check().out, re.MULTILINE)
        assert line is not None
        return int(line[1])

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
