"""``setup service``: units of ours, given to systemd, listed and removed.

An account's units are its user manager's, root's are the computer's. Whoever has set one up need not do anything else:
what runs by hand in its place is ended, and programs that the user manager starts find the readers.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.app.commands.service_unit import MARK, SYSTEM_RUNTIME, Unit
from cardferry.app.commands.user_session import Said, ask, import_variable, stale_agent
from cardferry.app.commands.variable import VARIABLE, export_line
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Running, running
from cardferry.pcsc.errors import UserError
from cardferry.system.peers import user_name
from cardferry.system.processes import command_line, wait_for_end

#: s for a command that runs by hand to say good-bye.
_FAREWELL: Final = 20.0
_PAUSE: Final = 0.05
#: s until a service that has started must tell where programs connect.
_SOON: Final = 5.0
_LINGER: Final = Path("/var/lib/systemd/linger")
_ENVIRONMENT: Final = "60-cardferry.conf"
#: Beside the units: lingering is ours to end, with the last of them.
_LINGERS: Final = "cardferry.lingers"


class ServiceError(UserError):
    """systemd is not there, or does not do what it is asked for."""

    exit_code = 60


@dataclass(frozen=True, slots=True)
class Installed:
    """A unit of ours that is there.

    Attributes:
        title: what it runs, as a person types it.
        state: systemd's word for how it is, such as ``active``.
        enabled: whether it starts by itself.
        command: the whole command.
    """

    title: str
    state: str
    enabled: bool
    command: str


class Services:
    """The services of this account, or of the computer.

    Args:
        tell: gets a line about each thing that was done.
        system: those of the computer.
    """

    def __init__(self, tell: Callable[[str], None], *, system: bool) -> None:
        self._tell = tell
        self._system = system
        self._config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        self._folder = Path("/etc/systemd/system") if system else self._config / "systemd" / "user"
        self._which = [] if system else ["--user"]

    async def install(self, unit: Unit, hosts: str, *, environment: bool | None, linger: bool) -> None:
        """Have systemd run it, now and at each start.

        Args:
            hosts: as ``status`` names them.
            environment: whether programs that the user manager starts shall use it; None if they use no other one.
            linger: have the user manager start with the computer.

        Raises:
            ServiceError: there is no systemd, or the service does not start.
        """
        await self._check()
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / unit.name).write_text(unit.text())
        await self._must("daemon-reload")
        await self._take_over(unit, hosts)
        await self._must("enable", "--quiet", unit.name)
        started = await self._systemctl("restart", unit.name)
        if started.code:
            raise ServiceError(
                f"{unit.name} does not start: {_last(started)}", f"what it says: {self._journal(unit.name)}"
            )
        self._tell(f"{unit.name} runs `cardferry {unit.title}`, now and after each start")
        if unit.command == "attach":
            await self._lead_programs(unit, environment)
        if not self._system:
            await self._linger(linger)

    async def remove(self, name: str) -> None:
        """Stop a service and remove its unit; raises `ServiceError` when there is none of ours."""
        path = self._folder / name
        if not _is_ours(path):
            raise ServiceError(f"there is no {name} of ours", "cardferry setup service list shows which there are")
        await self._check()
        await self._must("disable", "--now", "--quiet", name)
        path.unlink()
        file = self._config / "environment.d" / _ENVIRONMENT
        leads = not self._system and _owner(file) == name
        if leads:
            file.unlink()
        await self._must("daemon-reload")  # which reads the environment, too
        self._tell(f"{name} is stopped and removed")
        if leads:
            await self._systemctl("unset-environment", VARIABLE)
            self._tell(f"programs that systemd starts have no {VARIABLE} from now on")
        await self._linger_no_more()

    async def installed(self) -> list[Installed]:
        """Those that are there; raises `ServiceError` when there is no systemd."""
        await self._check()
        found = []
        for path in sorted(self._folder.glob("cardferry*.service")):
            if _is_ours(path):
                lines = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
                state = (await self._systemctl("is-active", path.name)).out.strip()
                enabled = not (await self._systemctl("is-enabled", "--quiet", path.name)).code
                title = lines["Description"].removeprefix("cardferry ").replace("%%", "%")
                found.append(Installed(title, state, enabled, lines["ExecStart"]))
        return found

    # systemd

    async def _systemctl(self, *words: str) -> Said:
        said = await ask("systemctl", *self._which, *words)
        return said or Said(1, "", "systemctl is not there, or does not answer")

    async def _must(self, *words: str) -> Said:
        said = await self._systemctl(*words)
        if said.code:
            shown = " ".join(["systemctl", *self._which, *words])
            raise ServiceError(f"`{shown}` fails: {_last(said)}", "see what it says when you type it")
        return said

    async def _check(self) -> None:
        if (await self._systemctl("show-environment")).code == 0:
            return
        if self._system:
            raise ServiceError(
                "systemd does not run this computer",
                "have what starts this computer's services run the command; SIGTERM ends it",
            )
        raise ServiceError(
            "this account has no systemd manager here",
            f"log in as {user_name(os.getuid())}, not with su or sudo; without a login: loginctl enable-linger",
        )

    def _journal(self, name: str) -> str:
        return f"journalctl {'' if self._system else '--user '}-e -u {name}"

    async def _main_process(self, name: str) -> int:
        said = await self._systemctl("show", "--property=MainPID", "--value", name)
        return int(said.out.strip()) if said.out.strip().isdecimal() else 0

    # who runs by hand

    async def _take_over(self, unit: Unit, hosts: str) -> None:
        """End what runs in the service's place; an agent that has started itself leaves its own place to it."""
        own = await self._main_process(unit.name)
        for one in self._running():
            if one.command != unit.command or one.pid in (own, os.getpid()) or _started_itself(one.pid):
                continue
            if one.command != "host" and one.hosts != hosts:
                continue
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
            await asyncio.to_thread(wait_for_end, one.pid, _FAREWELL)
            self._tell(f"`cardferry {unit.title}` ran by hand (process {one.pid}): the service takes its place")

    def _running(self) -> list[Running]:
        return [one for folder in {runtime_folder(), self._runtime()} for one in running(folder)]

    def _runtime(self) -> Path:
        return Path(SYSTEM_RUNTIME) / "cardferry" if self._system else runtime_folder()

    # programs

    async def _lead_programs(self, unit: Unit, wanted: bool | None) -> None:
        path = await self._socket(unit)
        if path is None:
            return
        if self._system:
            self._tell(f"root's programs find the readers with: {export_line(path)}")
            return
        file = self._config / "environment.d" / _ENVIRONMENT
        other = _owner(file)
        if wanted is False or (wanted is None and other not in ("", unit.name)):
            says = f"; what systemd starts has those of {other} (--environment changes that)" if other else ""
            self._tell(f"programs find the readers with: {export_line(path)}{says}")
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# Of {unit.name}: programs that systemd starts find its readers.\n{VARIABLE}={path}\n")
        result = await import_variable(path)
        for line in (*result.done, *result.failed, *filter(None, [await stale_agent(path)])):
            self._tell(line)
        self._tell(f"in a shell: {export_line(path)}")

    async def _socket(self, unit: Unit) -> str | None:
        """Where programs connect."""
        pid = await self._main_process(unit.name)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON):
                while True:
                    for one in running(self._runtime()):
                        if one.pid == pid:
                            return one.socket
                    await asyncio.sleep(_PAUSE)
        return None

    async def _linger(self, wanted: bool) -> None:
        user = user_name(os.getuid())
        if (_LINGER / user).exists():
            return
        if not wanted:
            self._tell(f"it starts when {user} logs in; with the computer: loginctl enable-linger, or --linger here")
            return
        said = await ask("loginctl", "enable-linger")
        if said is None or said.code:
            why = _last(said) if said else "loginctl does not answer"
            raise ServiceError(f"{user} cannot linger: {why}", f"as root: loginctl enable-linger {user}")
        (self._folder / _LINGERS).touch()
        self._tell(f"it starts with the computer: {user} lingers from now on")

    async def _linger_no_more(self) -> None:
        """After the last of our services, if it was one of them that has begun it."""
        mark = self._folder / _LINGERS
        if mark.exists() and not any(map(_is_ours, self._folder.glob("cardferry*.service"))):
            mark.unlink()
            if (said := await ask("loginctl", "disable-linger")) is not None and not said.code:
                self._tell(f"{user_name(os.getuid())} does not linger any more")


def _started_itself(pid: int) -> bool:
    """Whether it is an agent that nobody has started by hand: it had somebody to tell that it is ready."""
    return "--ready" in command_line(pid)


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        return path.read_text().startswith(MARK)
    return False


def _owner(file: Path) -> str:
    """The unit that an environment is of; empty when there is none."""
    with suppress(OSError):
        return file.read_text().removeprefix("# Of ").partition(":")[0]
    return ""


def _last(said: Said) -> str:
    return ((said.err or said.out).strip().splitlines() or [f"exit status {said.code}"])[0]
