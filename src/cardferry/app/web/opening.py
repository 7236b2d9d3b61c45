"""From what ``--web`` says to a page; only light imports before there is to be one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cardferry.app.web.address import DEFAULT, WebAddress, WebError

if TYPE_CHECKING:
    from cardferry.app.agent.leading import Page
    from cardferry.policy.guard import HostGuard


def check_libraries(needed_by: str, *names: str) -> None:
    """See that libraries of the extra are installed; raises `WebError`."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise WebError(
            f"{needed_by} what is not installed: {', '.join(missing)}",
            "install it with the extra server, as in: uv tool install './cardferry[server]'",
        )


def check_page(text: str | None, viewers: Sequence[str] = ()) -> None:
    """See that what ``--web`` and ``--web-viewer`` say goes together; raises `UserError`. None is no ``--web``."""
    if text is None and viewers:
        raise WebError(
            f"--web-viewer {viewers[0]}: there is no page without --web",
            "say where it is to be, at an address that others reach: --web ADDRESS:PORT",
        )
    if text is not None:
        _address(text, viewers)


def page_at(text: str, guard: HostGuard, viewers: Sequence[str] = (), files: Sequence[str] = ()) -> Page:
    """The page for an agent.

    Args:
        text: where, as ``ADDRESS:PORT``.
        guard: of the agent.
        viewers: principals who may see it where other computers reach it.
        files: of a public key infrastructure, as of `TlsAddress`; none for the host's own authority.

    Raises:
        UserError: there can be none.
    """
    address = _address(text, viewers)
    from cardferry.app.web.server import WebPage  # noqa: PLC0415 - an extra

    if not viewers:
        return WebPage(address, guard).serve
    from cardferry.app.web.viewers import Viewers  # noqa: PLC0415 - ssl and cryptography
    from cardferry.transports.tls.door import HostDoor, PkiDoor  # noqa: PLC0415
    from cardferry.transports.tls.host import own_host  # noqa: PLC0415
    from cardferry.transports.tls.identity import Pki  # noqa: PLC0415

    door = PkiDoor(Pki(*map(Path, files))) if files else HostDoor(own_host())
    door.context()  # what is wrong with it is said now
    return WebPage(address, guard, Viewers(door, viewers)).serve


def _address(text: str, viewers: Sequence[str]) -> WebAddress:
    address = WebAddress.parse(text)
    if address.here and viewers:
        raise WebError(
            f"--web {text}: there a link signs in, and nobody shows a certificate",
            "leave out --web-viewer, or give --web an address that others reach",
        )
    if not address.here and not viewers:
        raise WebError(
            f"--web {text}: other computers reach it, and --web-viewer does not say who may see it",
            f"start it with --web {DEFAULT} and reach it by: ssh -L {DEFAULT.rpartition(':')[2]}:{DEFAULT} HOST; "
            "or add --web-viewer tls:NAME for each who comes with a certificate",
        )
    if wrong := [name for name in viewers if not name.removeprefix("tls:") or not name.startswith("tls:")]:
        raise WebError(f"--web-viewer {wrong[0]}: that is no principal of TLS", "write --web-viewer tls:NAME")
    check_libraries("the page needs", "jinja2", "starlette", "uvicorn")
    return address
