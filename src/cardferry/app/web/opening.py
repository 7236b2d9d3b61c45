"""From what ``--web`` says to a page; only light imports before there is to be one."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from cardferry.app.web.address import WebAddress, WebError

if TYPE_CHECKING:
    from cardferry.app.agent.leading import Page
    from cardferry.policy.guard import HostGuard


def check_libraries(needed_by: str, *names: str) -> None:
    """See that libraries of the extra are installed; raises `WebError`."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise WebError(
            f"{needed_by} what is not installed: {', '.join(missing)}",
            "install cardferry[server], as in: uv tool install 'cardferry[server]'",
        )


def page_at(text: str, guard: HostGuard) -> Page:
    """The page for an agent, at ``ADDRESS:PORT``; raises `UserError` when there can be none."""
    address = WebAddress.parse(text)
    check_libraries("the page needs", "jinja2", "starlette", "uvicorn")
    from cardferry.app.web.server import WebPage  # noqa: PLC0415 - an extra

    return WebPage(address, guard).serve
