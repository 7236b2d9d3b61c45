"""The text of the systemd units that run our commands (systemd.unit(5), systemd.service(5)). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: What begins each unit that we make; others are left alone.
MARK: Final = "# Made by `cardferry setup service`"
#: Where the sockets of services of the computer are: XDG_RUNTIME_DIR, and in it our folder.
SYSTEM_RUNTIME: Final = "/run"
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
#: What quoted strings have for characters that would end a line; systemd.syntax(7).
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_UNIT: Final = """\
{first}

[Unit]
Description=cardferry {title}
Documentation=man:cardferry-{command}(1)
{after}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={words}
{reload}Restart=on-failure
RestartSec=10
# wrong usage, a wrong configuration file: nothing that waiting heals
RestartPreventExitStatus=2 14
# ssh is not to end before we have said good-bye through it
KillMode=mixed
TimeoutStopSec=20
WatchdogSec=60
# no core, and also for one that was stopped
WatchdogSignal=SIGKILL
UMask=0077
NoNewPrivileges=yes
{more}
[Install]
WantedBy={wanted_by}
"""
_NETWORK: Final = "Wants=network-online.target\nAfter=network-online.target\n"
#: Several services have the one folder, so it stays when one of them ends.
_AS_ROOT: Final = f"""\
User=root
Environment=XDG_RUNTIME_DIR={SYSTEM_RUNTIME}
RuntimeDirectory=cardferry
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service.

    Attributes:
        command: ``attach``, ``share`` or ``host``.
        label: a file's name for the hosts; empty for ``host``.
        title: the command as a person types it, without options.
        program: what runs cardferry.
        words: the command and its arguments.
        system: of the computer, run as root; else of an account.
        search_path: PATH for what it runs, such as ``exec:`` commands; empty for systemd's.
    """

    command: str
    label: str
    title: str
    program: tuple[str, ...]
    words: tuple[str, ...]
    system: bool = False
    search_path: str = ""

    @property
    def name(self) -> str:
        """The unit's file; ``@`` would make it a template."""
        return unit_name(self.command, self.label)

    def text(self, first: str = "") -> str:
        """What is in the file.

        Args:
            first: comments at the top, instead of ours.
        """
        more = _AS_ROOT if self.system else ""
        if self.search_path:
            more += f"Environment={quoted(f'PATH={self.search_path}'.replace('$', '$$'))}\n"
        return _UNIT.format(
            first=first or f"{MARK}; `cardferry setup service remove {self.title}` removes it.",
            title=self.title.replace("%", "%%"),
            command=self.command,
            after=_NETWORK if self.system else "After=default.target\n" if not self.label else "",
            words=" ".join(map(quoted, (*self.program, *self.words))),
            reload="ExecReload=/bin/kill -HUP $MAINPID\n" if self.command == "host" else "",
            more=more,
            wanted_by="multi-user.target" if self.system else "default.target",
        )


def unit_name(command: str, label: str) -> str:
    """What the unit of a command for hosts is called."""
    return f"cardferry-{command}-{label.replace('@', ':')}.service" if label else "cardferry.service"


def quoted(word: str) -> str:
    """A word for a line of a unit: neither specifiers nor variables are in it, and it ends no line."""
    plain = bool(_PLAIN.fullmatch(word))
    word = word.replace("%", "%%")
    if plain:
        return word
    each = (_ESCAPES.get(one) or (one if one.isprintable() else _bytes(one)) for one in word.replace("$", "$$"))
    return f'"{"".join(each)}"'


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def packaged() -> str:
    """The unit that packages bring: ``host``, for each account that enables it."""
    path: Sequence[str] = ("%h/.local/bin", "/usr/local/bin", "/usr/bin", "/bin")
    program = ("/usr/bin/env", "PATH=@", "cardferry")
    text = Unit("host", "", "host", program, ("host",)).text(
        "# A user unit: systemctl --user enable --now cardferry.\n"
        "# One with your options: cardferry setup service host --listen unix:PATH\n"
        "# Not needed: the agent starts by itself when a guest comes. With this it is there all the time."
    )
    return text.replace("PATH=@", f"PATH={':'.join(path)}")
