"""What can be asked for: the page, its stream, its files, and the actions. `checks` stands in front of all of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from cardferry.app.commands import guests as tls_guests
from cardferry.app.web import view
from cardferry.app.web.checks import Checked
from cardferry.app.web.http import CERTIFICATE
from cardferry.app.web.live import Live, Viewer
from cardferry.app.web.questions import PageQuestions
from cardferry.app.web.signing_in import LIFE, SigningIn, WebSession
from cardferry.app.web.viewers import Viewers
from cardferry.pcsc.errors import UserError

log = logging.getLogger(__name__)

#: Bytes of a form, and s that it may take to come.
_MOST_FORM: Final = 4096
_FORM_TIME: Final = 10.0
#: Fields of a form.
_MOST_FIELDS: Final = 16
#: s for which a guest's certificates are valid that was invited here.
_VALID: Final = 90 * 86400.0
_MOST_MINUTES: Final = 7 * 24 * 60
_STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

Form = dict[str, str]
Action = Callable[[WebSession, Form], Awaitable[Response]]


class Routes:
    """See the module.

    Args:
        signing_in: who may ask.
        live: what there is to see.
        questions: for the person.
        cookie: the name of the cookie, which is not that of another page on this computer.
        viewers: who may see it, where other computers reach it; None where a link signs in.
    """

    def __init__(
        self,
        signing_in: SigningIn,
        live: Live,
        questions: PageQuestions,
        cookie: str,
        viewers: Viewers | None = None,
    ) -> None:
        self._signing_in = signing_in
        self._live = live
        self._questions = questions
        self._cookie = cookie
        self._viewers = viewers
        self._static = {name: (files(__package__) / "static" / name).read_bytes() for name in _STATIC}
        routes = [
            Route("/", self._page),
            Route("/sign-in", self._sign_in),
            Route("/events", self._events),
            Route("/static/{name}", self._file),
            Route("/sign-out", self._action(self._sign_out), methods=["POST"]),
            Route("/questions/{number:int}", self._action(self._answer), methods=["POST"]),
            Route("/invite", self._action(self._invite), methods=["POST"]),
            Route("/guests/remove", self._action(self._remove), methods=["POST"]),
        ]
        self.app = Checked(Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed}))

    # what is read

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return self._stranger("This page is for whoever has started cardferry here.")
        self._questions.fetched()
        sections = {name: Markup(text) for name, text in (await self._live.sections()).items()}  # noqa: S704 - rendered
        return HTMLResponse(
            view.page(
                "page.html",
                token=session.token,
                sections=sections,
                wrong=self._signing_in.wrong,
                viewer=self._viewer(request),
            )
        )

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "GET":
            raise HTTPException(405)
        session = None if self._viewers else self._signing_in.use(request.query_params.get("secret", ""))
        if session is None:
            if self._signing_in.wrong == 1:
                log.warning("the page: somebody has come with a link that is not good; more are counted on the page")
            return _message("This link is not good", "It was used before, or it is not whole.", _HOW, status=403)
        log.info("the page: somebody has signed in")
        # No redirect: where the link stood in another page, the browser would leave out a cookie that is strict.
        answer = _message("Signed in", "The page comes at once.", "", status=200, onward=True)
        answer.set_cookie(self._cookie, session.key, max_age=int(LIFE), path="/", httponly=True, samesite="strict")
        return answer

    async def _events(self, request: Request) -> Response:
        session = self._session(request)
        if session is None or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise HTTPException(401)
        if self._live.full:
            raise HTTPException(503)
        return StreamingResponse(self._stream(request, session), media_type="text/event-stream")

    async def _stream(self, request: Request, session: WebSession) -> AsyncIterator[bytes]:
        viewer = Viewer()
        with self._questions.watching():
            try:
                await self._live.add(viewer)
                async for piece in viewer.stream(lambda: self._session(request) is session):
                    yield piece
            finally:
                self._live.remove(viewer)

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404)
        return Response(self._static[name], media_type=_STATIC[name])

    def _session(self, request: Request) -> WebSession | None:
        if self._viewers is None:
            return self._signing_in.find(request.cookies.get(self._cookie))
        viewer = self._viewer(request)
        return None if viewer is None else self._signing_in.of(viewer)

    def _viewer(self, request: Request) -> str | None:
        """Whom a certificate names, where there are certificates."""
        return None if self._viewers is None else self._viewers.name(getattr(request.state, CERTIFICATE, None))

    def _stranger(self, says: str) -> Response:
        if self._viewers is None:
            return _message("Sign in", says, _HOW, status=401)
        return _message("Not for you", "Your certificate is good, but this page is for others.", _WHO, status=403)

    # what is done

    def _action(self, act: Action) -> Callable[[Request], Awaitable[Response]]:
        """Something that changes something: for who has signed in, on our own page."""

        async def checked(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return self._stranger("Nothing was done: you are signed out.")
            form = await _form(request)
            if not self._signing_in.proves(session, form.get("token", "")):
                raise HTTPException(403)
            try:
                return await act(session, form | {name: str(value) for name, value in request.path_params.items()})
            except UserError as error:
                return _message("That cannot be done", error.message, error.hint, status=409)

        return checked

    async def _sign_out(self, session: WebSession, _form: Form) -> Response:
        self._signing_in.end(session)
        answer = _message("Signed out", "Nobody sees more with this browser.", _HOW, status=200)
        answer.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict")
        return answer

    async def _answer(self, _session: WebSession, form: Form) -> Response:
        word = form.get("answer", "")
        if not self._questions.answer(int(form["number"]), word):
            return _message("Too late", "That question is not open any more.", "", status=409)
        log.info("the page: the person has answered %r", word)
        return _back("questions")

    async def _invite(self, _session: WebSession, form: Form) -> Response:
        text = form.get("minutes", "15")
        minutes = int(text) if text.isdecimal() and text.isascii() else 0
        if not 0 < minutes <= _MOST_MINUTES:
            return _message("That cannot be done", f"not minutes: {text!r}", f"1 to {_MOST_MINUTES}", status=409)
        name, address = form.get("name", ""), form.get("address", "") or None
        line, notes = await asyncio.to_thread(tls_guests.invite, name, minutes * 60.0, _VALID, address)
        log.info("the page: %s is invited", name)
        return HTMLResponse(view.page("invited.html", line=f"cardferry join {line}", name=name, notes=notes))

    async def _remove(self, _session: WebSession, form: Form) -> Response:
        name = form.get("guest", "")
        await asyncio.to_thread(tls_guests.remove, name)
        log.warning("the page: the guest %s is removed", name)
        return _back("joined")


_HOW: Final = (
    "Open the link that cardferry host has printed; it is also in the file that it has named. It is good once."
)

_WHO: Final = "Whoever has started cardferry host says who may see it: --web-viewer."


def _message(title: str, says: str, hint: str, *, status: int, onward: bool = False) -> HTMLResponse:
    return HTMLResponse(view.page("message.html", title=title, says=says, hint=hint, onward=onward), status)


def _back(section: str) -> Response:
    return RedirectResponse(f"/#{section}", 303)


async def _form(request: Request) -> Form:
    """The fields of a form; raises `HTTPException` when it is none of ours."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    data = bytearray()
    try:
        async with asyncio.timeout(_FORM_TIME):
            async for piece in request.stream():
                data += piece
                if len(data) > _MOST_FORM:
                    raise HTTPException(413)
        fields = parse_qs(data.decode(), max_num_fields=_MOST_FIELDS)
    except TimeoutError:
        raise HTTPException(408) from None
    except ValueError:
        raise HTTPException(400) from None
    return {name: values[-1] for name, values in fields.items()}


async def _refused(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else ""
    return PlainTextResponse(f"{detail}\n", status)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours ends this request and nothing else."""
    log.error("a bug behind the page, at %s", request.url.path, exc_info=error)
    return PlainTextResponse("a bug of cardferry; its log has more\n", 500)
