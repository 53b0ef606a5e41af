"""Pages: templates, cookies, and forms that only our own page can send."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from carefolio.cloud import database
from carefolio.cloud.http import Door, read_body
from carefolio.cloud.settings import settings
from carefolio.doors import wording
from carefolio.identity import sessions
from carefolio.identity.sessions import Session
from carefolio.identity.sign_in import Browser

if TYPE_CHECKING:
    from jinja2 import Environment

SESSION = "__Host-session"
_VISITOR = "__Host-visitor"
_DEVICE = "__Host-device"
LONGEST_FORM = 64 * 1024
_DEVICE_SECONDS = 400 * 24 * 60 * 60
_LONDON = ZoneInfo("Europe/London")
# https://nhsconnect.github.io/nhsapp-developer-documentation: the in-app browser names itself.
_IN_APP = ("nhsapp-android/", "nhsapp-ios/")
_NHS_APP_SCRIPT = "https://www.nhsapp.service.nhs.uk"
_STATIC = {"svg": "image/svg+xml", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@dataclass(slots=True)
class Form:
    """A form that came from our own page."""

    fields: dict[str, str]
    file: bytes = b""

    def get(self, name: str) -> str:
        return self.fields.get(name, "")


class PageDoor(Door):
    """The common door for a function that has pages; what is for machines is answered in JSON."""

    def _failure(self, failure: Exception) -> Response:
        if isinstance(failure, GoSignInError):
            return failure.response
        return super()._failure(failure)


class GoSignInError(Exception):
    """The page is for somebody who has signed in; ``response`` sends him there and back."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def page_error(status: int, reason: str) -> Response:
    """The error page of a function with pages."""
    title = {404: "There is no such page", 403: "That cannot be done", 503: "Carefolio is not available"}.get(
        status, "Something went wrong"
    )
    body = _templates().get_template("message.html").render(
        title=title, lines=[reason[:1].upper() + reason[1:] + "."], link="/", link_text="To the first page",
        errors={}, session=None, form_token="", in_app=False, local=False,
    )  # fmt: skip
    return Response(body, status, headers=headers(in_app=False), media_type="text/html")


def browser_of(request: Request) -> Browser:
    """Who is at the door."""
    return Browser(
        request.client.host if request.client else "",
        request.headers.get("user-agent", ""),
        request.cookies.get(_DEVICE, ""),
        wording.browser(request.headers.get("user-agent", "")),
        in_app(request),
    )


def in_app(request: Request) -> bool:
    """Whether the page is shown inside the NHS App, which has its own header and footer."""
    return any(mark in request.headers.get("user-agent", "").lower() for mark in _IN_APP)


async def session_of(request: Request) -> Session | None:
    """The living session of the browser's cookie."""
    value = request.cookies.get(SESSION)
    return await sessions.find(await database.pool(), value) if value else None


async def open_session(request: Request, *, recent: bool = False) -> Session:
    """The open session. Raises GoSignInError without one; with ``recent`` also where the sign-in is long ago."""
    session = await session_of(request)
    if session is None or not session.is_open or (recent and not session.is_recent):
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if session is not None and session.stage == "second":
            raise GoSignInError(go_second(back))
        if session is not None and session.stage == "enrol":
            raise GoSignInError(RedirectResponse("/account", 303))
        raise GoSignInError(go_sign_in(back if request.method == "GET" else "/account"))
    return session


def go_sign_in(back: str) -> Response:
    return RedirectResponse(f"/login?{urlencode({'next': way_back(back)})}", 303)


def go_second(back: str) -> Response:
    return RedirectResponse(f"/login/second?{urlencode({'next': way_back(back)})}", 303)


def way_back(path: str) -> str:
    """``path`` where it is one of this site, else the first page (RFC 9700 section 4.11: no open redirect)."""
    good = (
        path.startswith("/")
        and not path.startswith(("//", "/\\"))
        and "\\" not in path
        and path.isprintable()
        and len(path) <= 2000
    )
    return path if good else "/"


def page(
    request: Request, template: str, *, status: int = 200, session: Session | None = None, **values: Any
) -> Response:
    """A page, with the token that its forms send back."""
    cookie, fresh = request.cookies.get(SESSION) if session else request.cookies.get(_VISITOR), ""
    if not cookie:
        cookie = fresh = secrets.token_urlsafe(24)
    inside = in_app(request) or (session is not None and session.in_app)
    body = _templates().get_template(template).render(
        {"errors": {}, "session": session, "form_token": sessions.form_token(cookie), "in_app": inside,
         "local": settings().environment == "local"} | values
    )  # fmt: skip
    response = Response(body, status, headers=headers(in_app=inside), media_type="text/html")
    if fresh:
        _set_cookie(response, _VISITOR, fresh)
    return response


def visitor_of(request: Request) -> str:
    """The browser, signed in or not: the cookie that the first page gave it."""
    return request.cookies.get(_VISITOR, "")


def with_visitor(response: Response, request: Request) -> tuple[Response, str]:
    """The response, and the visitor's cookie, which it gets where the browser has none."""
    value = visitor_of(request)
    if not value:
        value = secrets.token_urlsafe(24)
        _set_cookie(response, _VISITOR, value)
    return response, value


def form_token_of(request: Request) -> str:
    """What the forms of a page for somebody who is signed in send back."""
    return sessions.form_token(request.cookies.get(SESSION, ""))


async def form_of(request: Request, *, longest: int = LONGEST_FORM) -> Form:
    """The form in the body, also with a file. Raises HTTPException 403 where another site sent it."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _with_file(request, longest)
    body = await read_body(request, longest)
    fields = dict(parse_qsl(body.decode("utf-8", "replace").replace("\x00", ""), keep_blank_values=True))
    check_form_token(request, fields.get("form_token", ""))
    return Form(fields)


async def _with_file(request: Request, longest: int) -> Form:
    """A form with a file, which is kept in memory: it is bounded."""
    declared = request.headers.get("content-length", "")
    if not declared.isdigit() or int(declared) > longest:
        raise HTTPException(413, "the file is too large")
    async with request.form(max_files=1, max_fields=50, max_part_size=longest) as parts:
        fields = {name: value.replace("\x00", "") for name, value in parts.multi_items() if isinstance(value, str)}
        check_form_token(request, fields.get("form_token", ""))
        files = [value for _, value in parts.multi_items() if not isinstance(value, str)]
        return Form(fields, await files[0].read() if files else b"")


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON that our own script sends. Raises HTTPException."""
    check_form_token(request, request.headers.get("x-form-token", ""))
    try:
        said = json.loads(await read_body(request, LONGEST_FORM))
    except ValueError:
        raise HTTPException(400, "that was not JSON") from None
    if not isinstance(said, dict):
        raise HTTPException(400, "that was not an object")
    return said


def check_form_token(request: Request, sent: str) -> None:
    """The form belongs to a page that this browser got, by this very session. Raises HTTPException 403."""
    origin = request.headers.get("origin")
    cookies = [request.cookies[name] for name in (SESSION, _VISITOR) if name in request.cookies]
    if (origin not in (None, settings().public_url)) or not any(sessions.is_form_token(each, sent) for each in cookies):
        raise HTTPException(403, "this page is too old, or the form came from elsewhere: go back and try again")


async def leave(request: Request) -> None:
    """End the session that a new one of this browser takes the place of."""
    if session := await session_of(request):
        await sessions.end(await database.pool(), session.account.id, number=session.number)


def signed_in(value: str, where: str, device: str = "") -> Response:
    """Send the browser on with its new session."""
    response = RedirectResponse(where, 303)
    _set_cookie(response, SESSION, value)
    if device:
        _set_cookie(response, _DEVICE, device, _DEVICE_SECONDS)
    return response


def with_session(response: Response, value: str, device: str = "") -> Response:
    _set_cookie(response, SESSION, value)
    if device:
        _set_cookie(response, _DEVICE, device, _DEVICE_SECONDS)
    return response


def signed_out(response: Response) -> Response:
    response.delete_cookie(SESSION, path="/", secure=True, httponly=True, samesite="lax")
    return response


def _set_cookie(response: Response, name: str, value: str, seconds: int | None = None) -> None:
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


async def static(request: Request) -> Response:
    """GET /login/static/…: style and scripts, from the package."""
    name = str(request.path_params["name"])
    kind = _STATIC.get(name.rpartition(".")[2])
    file = resources.files("carefolio.doors").joinpath("static", name)
    if kind is None or "/" in name or not file.is_file():
        raise HTTPException(404, "there is no such file")
    return Response(file.read_bytes(), headers={"Cache-Control": "public, max-age=3600"}, media_type=kind)


def headers(*, in_app: bool) -> dict[str, str]:
    """No page is framed, tells where it was, or runs what is not ours.

    (form-action is left out: browsers apply it to where a form's answer leads, which for a consent is the app.)
    """
    scripts = f"'self' {_NHS_APP_SCRIPT}" if in_app else "'self'"
    return {
        "Content-Security-Policy": f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "same-origin",
        # Two years, which browsers count from each visit; of no meaning without TLS.
        "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
        "X-Frame-Options": "DENY",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader

    made = Environment(loader=PackageLoader("carefolio.doors", "pages"), autoescape=True, auto_reload=False)
    made.filters |= {"day": _day, "browser": wording.browser, "event": wording.event}
    made.filters["moment"] = lambda at: f"{_day(at)} at {at.astimezone(_LONDON):%H:%M}"
    return made


def _day(at: datetime) -> str:
    """A date as the NHS writes it, by the clock on the wall."""
    local = at.astimezone(_LONDON)
    return f"{local.day} {local:%B %Y}"
