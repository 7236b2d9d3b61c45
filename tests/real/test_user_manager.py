"""gpg-agent that a user manager starts without the variable: the doctor sees that, and its hint is followed."""

from __future__ import annotations

import sys

from tests.lab import Lab
from tests.lab.computer import CARDFERRY, REPOSITORY
from tests.lab.ferry import Ferry
from tests.lab.gpg import configure_pinentry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.user_manager import systemctl
from tests.real.test_doctor import VARIABLE, examined

MANAGER = REPOSITORY / "tests" / "lab" / "user_manager.py"
_PORT = 35998


def test_gpg_finds_the_card_when_what_the_doctor_says_was_done(lab: Lab) -> None:
    desk = lab.computer("desk")
    folder = desk.folder / "manager"
    folder.mkdir()
    desk.popen([PLAIN_PYTHON, "-u", MANAGER, folder, desk.runtime / "gnupg" / "S.gpg-agent"]).wait_for("^listening$")
    shell = {"PATH": f"{systemctl(folder, desk.env)}:{desk.env['PATH']}"}
    ferry = Ferry(desk, ["attach", f"vpicc:{_PORT}"])
    env = {**shell, **ferry.env}
    card = [sys.executable, "-m", "tests.lab.card_openpgp", f"--port={_PORT}", f"--storage={desk.folder / 'openpgp'}"]
    desk.popen(card, {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}, mounts=False).wait_for("^inserted$")

    unused = examined(desk, env=env)
    assert not unused.problems, "gpg was never used here"
    assert unused.says("note", "gnupg", f"systemd will start gpg-agent with {VARIABLE} not set", "env --import")
    assert not (folder / "running").exists(), "nobody is started by being asked"

    home = desk.home / ".gnupg"
    home.mkdir(mode=0o700)
    (home / "scdaemon.conf").write_text("disable-ccid\n")
    configure_pinentry(home)
    status = ["gpg", "--batch", "--card-status"]
    assert desk.run(status, env).code != 0, "the shell's variable does not get to scdaemon"
    assert (folder / "running").exists()
    told = examined(desk, env=env)
    assert [one["probe"] for one in told.problems] == ["gnupg"], told
    hint = "cardferry env --import, then gpgconf --kill gpg-agent"
    assert told.says("problem", "gnupg", f"gpg-agent has {VARIABLE} not set", f"{hint}$"), told

    done = desk.run([CARDFERRY, "env", "--import"], shell).check()
    assert done.out == f"export {VARIABLE}={ferry.socket}\n"
    assert f"systemd's user manager has {VARIABLE} now" in done.err
    assert "gpgconf --kill gpg-agent" in done.err
    desk.run(["gpgconf", "--kill", "gpg-agent"], shell).check()
    seen = desk.run(status, shell).check().out
    application = seen.partition("Application ID ...: ")[2].split()[0]
    assert not examined(desk, env=env).problems
    assert f"OpenPGP 3.4 {application}" in desk.run([CARDFERRY, "readers"], shell).out
    desk.run(["gpgconf", "--kill", "all"], shell)
