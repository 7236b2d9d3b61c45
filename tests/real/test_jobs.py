"""``docs/jobs/``: the pages' own lines for a shell, on a guest whose card is at another computer."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import PIV_PIN, CardInReader, openpgp_card, piv_card
from tests.lab.computer import CARDFERRY, REPOSITORY, Computer
from tests.lab.ferry import Ferry
from tests.lab.gpg import Gpg, configure_pinentry
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, run
from tests.lab.recipe import Recipe
from tests.lab.sshd import Sshd

PAGES = REPOSITORY / "docs" / "jobs"
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What Debian 12 cannot run.
_NEWER = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MODULE = "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
_PERSON = {f"GIT_{who}_{what}": "Lab" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Desk:
    """A person on ``build1`` whose card is in ``laptop``, and who may log in to ``server``.

    Args:
        card: what puts it into the laptop's reader.
    """

    def __init__(self, lab: Lab, card: Callable[[Pcscd], CardInReader]) -> None:
        recipe = Recipe(lab, names=("laptop", "build1"))
        card(recipe.pcscd)
        self.laptop, self.build1 = recipe.host, recipe.guest
        self._ssh = self.build1.home / ".ssh"
        self._ssh.mkdir(mode=0o700)
        self._knows(recipe.host_sshd.config(self.build1))
        self._ferry: Ferry | None = None

    def _knows(self, config: Path) -> None:
        with (self._ssh / "config").open("a") as file:
            file.write(config.read_text())

    def may_log_in_to_server(self, lab: Lab) -> Path:
        """``ssh server`` asks for a key of the card; returns where its public key is to be put."""
        server = lab.computer("server")
        keys = server.home / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700)
        sshd = Sshd(server, {"AuthorizedKeysFile": str(keys)})
        self._knows(
            sshd.config(self.build1, options={"IdentityFile": "none", "IdentitiesOnly": "no", "BatchMode": "no"})
        )
        return keys

    def attach(self, *options: str | Path) -> None:
        """What each page says that runs in another terminal; without the empty reader, which modutil minds."""
        self._ferry = Ferry(self.build1, ["attach", "laptop", "--reader", "* 00", *options])

    def types(self, page: str, blocks: slice = slice(None), **env: str) -> Result:
        """Type lines of a page, all of them in one shell; each must succeed."""
        found = _BLOCK.findall((PAGES / f"{page}.md").read_text())
        module = str(next(Path("/usr/lib").glob("*/opensc-pkcs11.so")))
        script = "\n".join(found[blocks]).replace(_MODULE, module)
        path = f"{CARDFERRY.parent}:{self.build1.env['PATH']}"
        words = ["bash", "-euo", "pipefail", "-c", script]
        return self.build1.run(words, {"PATH": path, **_PERSON, **env}, timeout=90).check()


@pytest.fixture
def piv(lab: Lab) -> Desk:
    """The card is a PIV card; it is attached."""
    desk = Desk(lab, piv_card)
    desk.attach()
    return desk


@pytest.fixture
def asking(piv: Desk) -> dict[str, str]:
    """A program that types the PIN where ssh asks for it."""
    program = piv.build1.home / "asking"
    program.write_text(f"#!/bin/sh\necho {PIV_PIN}\n")
    program.chmod(0o700)
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def program() -> bytes:
    """The smallest program for Windows that osslsigncode takes: PE32+, one section, one instruction."""
    sizes = struct.pack("<HBBIIIII", 0x20B, 14, 0, 512, 0, 0, 0x1000, 0x1000)
    where = struct.pack("<QIIHHHHHHIIIIHH", 0x140000000, 0x1000, 512, 6, 0, 0, 0, 6, 0, 0, 0x2000, 512, 0, 3, 0x8160)
    optional = sizes + where + struct.pack("<QQQQII", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16) + bytes(128)
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, len(optional), 0x22)
    section = b".text\0\0\0" + struct.pack("<IIIIIIHHI", 1, 0x1000, 512, 512, 0, 0, 0, 0, 0x60000020)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return head.ljust(512, b"\0") + b"\xc3" + bytes(511)


def test_a_yubikey_over_ssh(lab: Lab, piv: Desk, asking: dict[str, str]) -> None:
    keys = piv.may_log_in_to_server(lab)
    said = piv.types("yubikey-ssh", slice(0, 1))
    assert "Slot 9a" in said.all
    keys.write_text((piv.build1.home / "piv.pub").read_text())
    assert piv.types("yubikey-ssh", slice(0, 2), **asking).out.endswith("server\n")
    with_agent = piv.types("yubikey-ssh", slice(2, None), **asking, **variable(piv.build1)).out
    assert "\nserver\n" in with_agent
    assert "gpgsig -----BEGIN SSH SIGNATURE-----" in with_agent


def variable(computer: Computer) -> dict[str, str]:
    """What `eval "$(cardferry env)"` has put into the shell."""
    line = computer.run([CARDFERRY, "env"]).check().out
    return {"PCSCLITE_CSOCK_NAME": line.strip().partition("=")[2]}


def test_code_signing(piv: Desk) -> None:
    (piv.build1.home / "program.exe").write_bytes(program())
    (piv.build1.home / "release.tar").write_text("hello\n")
    said = piv.types("code-signing", PIN=PIV_PIN).all
    assert "Verified OK" in said
    assert "Number of verified signatures: 1" in said or "Succeeded" in said
    assert "jar verified." in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="not run, missing: mmdebstrap")
def test_code_signing_with_a_provider(lab: Lab) -> None:
    """In a Debian 13, whose OpenSSL has one."""
    desk = Desk(lab, piv_card)
    cards, root = desk.build1.home / "cards", lab.folder / "trixie"
    cards.mkdir()
    desk.attach("--socket", cards / "card.sock")
    packages = "--include=opensc,libpcsclite1,openssl,pkcs11-provider"
    run(["mmdebstrap", "--quiet", "--variant=apt", packages, "--format=directory", "trixie", root], timeout=500).check()
    page = (PAGES / "code-signing.md").read_text()
    start, configuration, certificate, engine = _BLOCK.findall(page)[:4]
    (provider,) = _NEWER.findall(page)
    _, checking = engine.split("\n", 1)
    start = start.replace('eval "$(cardferry env)"', "export PCSCLITE_CSOCK_NAME=/run/cards/card.sock")
    script = "\n".join(["cd /root; echo hello > release.tar", start, configuration, certificate, provider, checking])
    mounts = f"mkdir {root}/run/cards; mount --bind {cards} {root}/run/cards; mount --bind /dev {root}/dev"
    words = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec chroot {root} bash -euo pipefail -c "$0"', script]
    done = desk.build1.run(words, {"PIN": PIV_PIN, "HOME": "/root"}).check()
    assert "Verified OK" in done.out


def test_gpg_and_git(lab: Lab) -> None:
    desk = Desk(lab, openpgp_card)
    owner = Gpg(desk.laptop, name=".gnupg")
    owner.make_keys()
    owner.stop()
    desk.attach()
    (desk.build1.home / ".gnupg").mkdir(mode=0o700)
    configure_pinentry(desk.build1.home / ".gnupg")
    try:
        said = desk.types("gpg-and-git")
    finally:
        desk.build1.run(["gpgconf", "--kill", "all"])
    assert "Application type .: OpenPGP" in said.out
    assert "-----BEGIN PGP SIGNATURE-----" in said.out
    assert "Good signature" in said.err
