"""What the guest runs in the demo: unmodified programs where they are installed, a small built-in one where not.

Each step returns what it ran and what came of it; a step that fails raises `DemoError`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cardferry.app.demo.stage import Computer, DemoError, cardferry, program

_PIN = "123456"
_DOCUMENT = b"The card stayed where it was; the signature came to the guest.\n"

_REPORT: Final = "please report this"


def _failed(command: str, said: bytes) -> DemoError:
    """A step that ended with an error, and what it said last."""
    last = (said.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
    return DemoError(f"a step of the demo failed: {command}: {last}", _REPORT)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the guest did.

    Attributes:
        title: in words.
        command: as a person would type it.
        output: lines worth showing.
        seconds: how long it took.
    """

    title: str
    command: str
    output: list[str]
    seconds: float


class Guest:
    """The programs on the guest.

    Args:
        computer: where they run.
        socket: `PCSCLITE_CSOCK_NAME` for them.
    """

    def __init__(self, computer: Computer, socket: Path) -> None:
        self._computer = computer
        self._socket = socket
        self.document = computer.folder / "document"
        self.document.write_bytes(_DOCUMENT)
        self.signature = computer.folder / "signature"
        self.certificate = computer.folder / "certificate"

    @property
    def opensc(self) -> bool:
        """Whether OpenSC's unmodified tools do the work."""
        return bool(program("opensc-tool") and program("pkcs11-tool"))

    def list_readers(self) -> Step:
        """The reader is there."""
        if self.opensc:
            return self._step("List the readers", ["opensc-tool", "--list-readers"])
        return self._step("List the readers", [*cardferry(), "readers"])

    def sign(self) -> Step:
        """The card signs, after the PIN."""
        title = "Sign a document with the key in the card (PIN 123456)"
        if not self.opensc:
            return self._step(title, [*self._built_in(), "sign", self.document, self.signature])
        return self._step(
            title,
            [
                *f"pkcs11-tool --login --pin {_PIN} --sign --id 01 --mechanism ECDSA-SHA256".split(),
                *("--signature-format", "openssl"),
                *("--input-file", self.document, "--output-file", self.signature),
            ],
        )

    def read_certificate(self) -> Step:
        """The certificate comes from the card, too."""
        title = "Read the certificate from the card"
        if not self.opensc:
            return self._step(title, [*self._built_in(), "certificate", self.certificate])
        return self._step(
            title,
            ["pkcs11-tool", "--read-object", "--type", "cert", "--id", "01", "--output-file", self.certificate],
        )

    def verify(self) -> Step:
        """Anybody can verify the signature with the certificate, without the card."""
        start = time.perf_counter()
        certificate = x509.load_der_x509_certificate(self.certificate.read_bytes())
        public = self._computer.folder / "public.pem"
        public.write_bytes(certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        title = "Verify it, without the card"
        if program("openssl"):
            return self._step(
                title,
                ["openssl", "dgst", "-sha256", "-verify", public, "-signature", self.signature, self.document],
            )
        key = cast("ec.EllipticCurvePublicKey", certificate.public_key())
        try:
            key.verify(self.signature.read_bytes(), self.document.read_bytes(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise DemoError("the signature does not verify", _REPORT) from None
        return Step(title, "python: cryptography", ["Verified OK"], time.perf_counter() - start)

    def all_tokens(self, socket: Path) -> float:
        """How long ``pkcs11-tool --list-slots`` takes over some socket, in s."""
        start = time.perf_counter()
        done = self._computer.run(["pkcs11-tool", "--list-slots"], PCSCLITE_CSOCK_NAME=str(socket))
        if done.returncode:
            raise _failed("pkcs11-tool --list-slots", done.stderr)
        return time.perf_counter() - start

    def _built_in(self) -> list[str]:
        return [*cardferry()[:-1], "cardferry.app.demo.piv_program", str(self._socket)]

    def _step(self, title: str, command: Sequence[str | Path]) -> Step:
        start = time.perf_counter()
        done = self._computer.run(command, PCSCLITE_CSOCK_NAME=str(self._socket))
        seconds = time.perf_counter() - start
        shown = " ".join(Path(word).name if isinstance(word, Path) or "/" in word else word for word in command)
        output = [line.rstrip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        if done.returncode:
            raise _failed(shown, done.stderr)
        return Step(title, shown, output, seconds)

    def signature_text(self) -> str:
        """The signature as people copy it."""
        return base64.b64encode(self.signature.read_bytes()).decode()
