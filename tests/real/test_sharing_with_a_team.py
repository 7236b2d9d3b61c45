"""``docs/sharing-with-a-team.md``, done as a new user would: files and commands are those of the page.

A host with a fresh token and cardferry, two build machines whose keys may do nothing but the link.
"""

from __future__ import annotations

import re

from tests.lab import Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.ferry import Ferry, over
from tests.lab.link import install_cardferry
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result
from tests.lab.sshd import Sshd

_PAGE = (
    (REPOSITORY / "docs" / "sharing-with-a-team.md").read_text().partition("## From a fresh")[2].partition("\n## ")[0]
)
_BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)
_NEW_PIN = "471147"


def block(kind: str, having: str) -> str:
    """The block of that kind with these words in it."""
    found: str
    (found,) = [text for its, text in _BLOCKS if its == kind and having in text]
    return found


def typed(computer: Computer, lines: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    """What a person types into a shell."""
    return computer.run(["bash", "-ec", lines], env, 120, stdin)


def test_from_a_fresh_token_to_two_build_machines(lab: Lab) -> None:
    host, builds = lab.computer("host"), [lab.computer("build1"), lab.computer("build2")]
    piv_card(Pcscd(host, name="Yubico YubiKey OTP+FIDO+CCID"))
    for computer in (host, *builds):
        install_cardferry(computer)
    mine = {"/home/signing": str(host.home), "local-user:signing": f"local-user:{host.user}"}

    token = block("sh", "change-pin")  # which asks for the PINs at a terminal
    typed(host, token.replace("-a change-pin", f"-a change-pin -P {PIV_PIN} -N {_NEW_PIN}")).check()
    typed(host, block("sh", "card.pin"), stdin=f"{_NEW_PIN}\n").check()
    rules = block("toml", "build1")
    for theirs, ours in mine.items():
        rules = rules.replace(theirs, ours)
    folder = host.home / ".config" / "cardferry"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "config.toml").write_text(rules)
    (folder / "config.toml").chmod(0o600)

    check, may, may_not, show = block("sh", "policy check").splitlines()
    assert "2 rules in" in typed(host, check).check().out
    assert "rule 1 allows it" in typed(host, may).check().out
    assert typed(host, may_not).code == 1
    assert "60/hour" in typed(host, show).check().out
    (folder / "config.toml").write_text(rules.replace("60/hour", "5/hour"))  # so that it does not take a minute

    sshd, authorized = Sshd(host), []
    for build, line in zip(builds, block("", "command=").splitlines(), strict=True):
        key = build.home / "key"
        build.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]).check()
        authorized.append(line.replace("AAAA...", key.with_suffix(".pub").read_text().split()[1]))
    host.outside("/run/sshd/authorized_keys").write_text("\n".join(authorized) + "\n")
    attach = block("sh", "attach").split()[1:-1]
    ferries = []
    for build in builds:
        config = sshd.config(build, attach[-1].partition("@")[2], options={"IdentityFile": str(build.home / "key")})
        destination = attach[-1].replace("signing@", f"{host.user}@")
        ferries.append(Ferry(build, [*attach[:-1], destination, *over(config)]))
        (build.home / "release.tar").write_text("a release\n")

    env, sign = block("sh", "release.sig").splitlines()
    one = typed(builds[0], f"{env}\nfor each in $(seq 5); do {sign}; done")
    assert one.code == 0, one
    assert typed(builds[0], f"{env}\n{sign}").code != 0, "so often, and not once more"
    typed(builds[1], f"{env}\n{sign}").check()
    verify = "openssl dgst -sha256 -verify {0}/signing.pub -signature release.der release.tar"
    signature = f"{env}\n{sign} --signature-format openssl && mv release.sig release.der"
    typed(builds[1], signature).check()
    (builds[1].home / "signing.pub").write_text((host.home / "signing.pub").read_text())
    typed(builds[1], verify.format(builds[1].home)).check()
    assert typed(builds[1], f"{env}\npkcs11-tool --login --pin {_NEW_PIN} --sign --id 02 -m ECDSA-SHA256 "
                            "-i release.tar -o other.sig").code != 0, "the PIN is not the guest's to give"  # fmt: skip

    audit_show, audit_verify = block("sh", "audit show").splitlines()
    said = typed(host, audit_show).check().out
    assert "ssh:build2, done, signed" in said
    assert "with PIV 9C, CN=build signing" in said
    assert "none of them changed" in typed(host, audit_verify).check().out
    assert _NEW_PIN not in (host.home / ".local/state/cardferry/audit.jsonl").read_text()
