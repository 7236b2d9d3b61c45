"""What each request must pass before anything else looks at it, and what each answer says to the browser.

A page of somebody else can have the browser ask us (CSRF), also under a name that it made lead here (DNS rebinding).
So the name in ``Host`` must be one of this computer's loopback, and what changes something must say that it comes from
our own page (``Origin``, Fetch 3.2; ``Sec-Fetch-Site``, Fetch Metadata 2.1). The port may differ, for ``ssh -L``. Over
TLS the browser has compared the name with our certificate, so any name will do there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_READING: Final = ("GET", "HEAD")
#: Without inline scripts and styles, and without anything of somebody else's.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
#: ``no-referrer`` would make browsers hide the origin of our own forms.
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Checked:
    """An application around another one.

    Args:
        app: gets what has passed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in HEADERS}
                kept = [header for header in message.get("headers", ()) if header[0].lower() not in names]
                message["headers"] = [*kept, *HEADERS]
            await send(message)

        if scope["type"] != "http":
            return
        if why := refusal(scope):
            await PlainTextResponse(f"{why}\n", 403)(scope, receive, answer)
        else:
            await self._app(scope, receive, answer)


def refusal(scope: Scope) -> str:
    """Why nothing is to be done for a request; empty where all is well."""
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value.decode("latin-1"))
    hosts, scheme = headers.get(b"host", []), scope["scheme"]
    if len(hosts) != 1 or (scheme != "https" and not _LOOPBACK.fullmatch(hosts[0])):
        return "the page is not known by that name: use the address in the link"
    if scope["method"] in _READING:
        return ""
    if headers.get(b"origin") != [f"{scheme}://{hosts[0]}"]:
        return "that does not come from this page"
    if any(site != "same-origin" for site in headers.get(b"sec-fetch-site", [])):
        return "that does not come from this page"
    return ""
