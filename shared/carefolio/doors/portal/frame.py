"""A visit of the portal: who is there, whose record is open, as of when; and the frame around every page."""

from __future__ import annotations

import csv
import hmac
import io
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from carefolio.cloud import database
from carefolio.cloud.database import Pool
from carefolio.doors import pages
from carefolio.doors.pages import Form
from carefolio.doors.portal import language
from carefolio.fhir.errors import FhirError
from carefolio.identity import accounts, sealed
from carefolio.identity.accounts import AccountError
from carefolio.identity.sessions import Session
from carefolio.record import corrections, finding
from carefolio.record.access import Reader
from carefolio.record.entries import EntryError
from carefolio.record.items import Item
from carefolio.record.sharing import SharingError
from carefolio.view import telling
from carefolio.view.sections import SECTIONS

if TYPE_CHECKING:
    from jinja2 import Environment

OWN = "/record"
PER_PAGE = 25
# What people write at length.
_TEXTS = ("text", "note", "reason", "answer", "message", "goal")
Refusal = (SharingError, EntryError, FhirError, AccountError)


@dataclass(slots=True)
class Visit:
    """One request of somebody who is signed in. ``patient`` is whose record is open, None on pages of no record.

    ``base`` is the address of that record, ``as_of`` the day as of which it is read, ``whose`` its person in words,
    ``may_write``: as the patient, or a carer in his name; ``refused_day``: a day was asked for that cannot be shown.
    """

    request: Request
    session: Session
    reader: Reader
    pool: Pool
    roles: frozenset[str]
    patient: uuid.UUID | None = None
    base: str = ""
    as_of: date | None = None
    whose: Mapping[str, Any] | None = None
    may_write: bool = False
    refused_day: bool = False

    @property
    def record(self) -> uuid.UUID:
        """The record that is open."""
        assert self.patient is not None
        return self.patient

    @property
    def is_own(self) -> bool:
        return self.patient is not None and self.patient == self.session.account.record_id

    def query(self, name: str) -> str:
        """A parameter of the address; empty where there is none."""
        return self.request.query_params.get(name, "").replace("\x00", "")[:500]

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def number(self, name: str) -> uuid.UUID:
        """A number in the path; 404 where it is none."""
        return read_number(self.path(name))

    def go(self, path: str, note: str = "") -> Response:
        """Send the browser to a page of the open record, with a line that says what was done."""
        where = f"{self.base}{path}" if not path.startswith("//") else path[1:]
        query = urlencode({"note": note, "mark": self._mark(where, note)}) if note else ""
        return RedirectResponse(where + (f"?{query}" if query else ""), 303)

    def _mark(self, path: str, note: str) -> str:
        """That we said so, to this session: nobody else's link does."""
        return sealed.mac("note", f"{self.session.number} {path} {note}").hex()[:16]

    def note(self) -> str:
        """What was done a moment ago, in words."""
        name = self.query("note")
        said = hmac.compare_digest(self._mark(self.request.url.path, name), self.query("mark")) if name else False
        return language.translate(NOTES.get(name, "")) if said else ""

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page in the portal's frame."""
        inside = pages.in_app(self.request) or self.session.in_app
        body = _templates().get_template(template).render(
            {"errors": {}, "visit": self, "session": self.session, "roles": self.roles, "base": self.base,
             "whose": self.whose, "as_of": self.as_of, "in_app": inside,
             "language": language.choose(self.request), "note": self.note(),
             "form_token": pages.form_token_of(self.request), "sections": SECTIONS,
             "status": status, "here": self.request.url.path, "asked": dict(self.request.query_params),
             "as_of_query": f"?as-of={self.as_of.isoformat()}" if self.as_of else ""} | values
        )  # fmt: skip
        return Response(body, status, headers=pages.headers(in_app=inside), media_type="text/html")


Page = Callable[[Visit], Coroutine[Any, Any, Response]]
Submit = Callable[[Visit, Form], Coroutine[Any, Any, Response]]


def read_number(text: str) -> uuid.UUID:
    """A number in an address; 404 where it is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise HTTPException(404, "there is no such page") from None


async def _visit(request: Request, *, of_record: bool) -> Visit:
    session = await pages.open_session(request)
    account, pool = session.account, await database.pool()
    roles = frozenset(await accounts.roles_of(pool, account.id))
    patient, base = None, ""
    asked = request.path_params.get("patient")
    if (
        session.patient_id is not None
        and request.url.path != "/"
        and not of_record
        and asked != str(session.patient_id)
    ):
        raise HTTPException(403, "you came from your hospital's system for one patient: sign in here for others")
    if of_record:
        if "patient" in request.path_params:
            patient = read_number(str(request.path_params["patient"]))
            base = f"/patients/{patient}"
        else:
            patient, base = account.record_id, OWN
            if patient is None:
                raise pages.GoSignInError(RedirectResponse("/", 303))
        if session.patient_id not in (None, patient):
            raise HTTPException(403, "you came from your hospital's system for one patient: sign in here for others")
    day = request.query_params.get("as-of", "")
    as_of = _day(day) if of_record else None
    own = patient is not None and patient == account.record_id
    reader = Reader.of_person(
        account.id, account.organisation_id, account.record_id, patient=patient or account.record_id,
        # His own record and nobody else's: the shortest way to it.
        scope="patient/*.cruds" if own else None,
        at=datetime.combine(as_of + timedelta(days=1), time(), telling.LONDON) if as_of else None,
    )  # fmt: skip
    visit = Visit(request, session, reader, pool, roles, patient, base, as_of, refused_day=bool(day) and as_of is None)
    if patient is not None:
        visit.whose = next(iter(await finding.named(pool, reader, [patient])), None)
        visit.may_write = own or (not account.is_professional and await corrections.speaks(pool, reader, patient))
    return visit


def _day(text: str) -> date | None:
    try:
        found = date.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found if found and found.year > 1900 and found < telling.today() else None


def record_page(path: str, show: Page, *, then: bool = False) -> list[Route]:
    """A page of a record: of one's own, and of somebody's who shares it; ``then``: also as it was on a day."""

    async def handle(request: Request) -> Response:
        visit = await _visit(request, of_record=True)
        if visit.as_of is not None and not then:
            rest = {name: value for name, value in request.query_params.items() if name != "as-of"}
            return RedirectResponse(address(request.url.path, rest), 303)
        if visit.whose is None:
            return await _closed(visit)
        return await _told(visit, show(visit))

    handle.__name__ = show.__name__
    return [Route(f"{base}{path}", handle, methods=["GET"]) for base in (OWN, "/patients/{patient}")]


def record_form(path: str, submit: Submit, *, longest: int = pages.LONGEST_FORM) -> list[Route]:
    """What a form of a record's page does."""

    async def handle(request: Request) -> Response:
        form = await pages.form_of(request, longest=longest)
        try:
            visit = await _visit(request, of_record=True)
        except pages.GoSignInError as gone:
            return _kept(form, gone)
        if visit.whose is None or visit.as_of is not None:
            return await _closed(visit)
        return await _told(visit, submit(visit, form))

    handle.__name__ = submit.__name__
    return [Route(f"{base}{path}", handle, methods=["POST"]) for base in (OWN, "/patients/{patient}")]


def plain_page(path: str, show: Page, role: str = "") -> list[Route]:
    """A page that is of no record; ``role``: for whom alone."""

    async def handle(request: Request) -> Response:
        visit = await _visit(request, of_record=False)
        return await _told(visit, _checked(visit, role, show(visit)))

    handle.__name__ = show.__name__
    return [Route(path, handle, methods=["GET"])]


def plain_form(path: str, submit: Submit, role: str = "", *, longest: int = pages.LONGEST_FORM) -> list[Route]:
    """What a form of such a page does."""

    async def handle(request: Request) -> Response:
        form = await pages.form_of(request, longest=longest)
        try:
            visit = await _visit(request, of_record=False)
        except pages.GoSignInError as gone:
            return _kept(form, gone)
        return await _told(visit, _checked(visit, role, submit(visit, form)))

    handle.__name__ = submit.__name__
    return [Route(path, handle, methods=["POST"])]


async def _checked(visit: Visit, role: str, work: Coroutine[Any, Any, Response]) -> Response:
    try:
        _check(visit, role)
    except HTTPException:
        work.close()
        raise
    return await work


def _check(visit: Visit, role: str) -> None:
    if role == "professional" and not visit.session.account.is_professional:
        raise HTTPException(403, "this page is for professionals")
    if role not in ("", "professional") and role not in visit.roles:
        raise HTTPException(403, f"this page is for a {role.replace('-', ' ')}")


def _kept(form: Form, gone: pages.GoSignInError) -> Response:
    """Who was signed out while he wrote sees his words again, to copy them: they are not lost with the session."""
    texts = [form.get(name) for name in _TEXTS if form.get(name).strip()]
    if not texts:
        return gone.response
    body = _templates().get_template("signed_out.html").render(texts=texts, language=language.ENGLISH)
    return Response(body, 401, headers=pages.headers(in_app=False), media_type="text/html")


async def _told(visit: Visit, work: Awaitable[Response]) -> Response:
    """What the library says no to, in its own words, on a page."""
    try:
        return await work
    except Refusal as refused:
        status = refused.status if isinstance(refused, SharingError | FhirError) else 422
        text = str(refused)
        return visit.page("said_no.html", status=status, reason=f"{text[:1].upper()}{text[1:]}")
    except HTTPException as error:
        # Who has signed in keeps his menu on the way out of a wrong turn.
        reason = str(error.detail)
        return visit.page("said_no.html", status=error.status_code, reason=f"{reason[:1].upper()}{reason[1:]}")


async def _closed(visit: Visit) -> Response:
    """A record that is not open to who asks: a professional may break the glass."""
    return visit.page("closed.html", status=404)


# What templates say.

NOTES = {
    "measured": "Your measurement is in the record.",
    "noted": "It is in the record.",
    "taken-back": "It is taken out of the record.",
    "shared": "It is saved, and counts from now on.",
    "unshared": "They no longer see your record. What their own hospital or practice sent, its staff still see.",
    "stopped": "Nothing is shared any more. Each team still sees what it contributed itself.",
    "started": "What was shared before is shared again.",
    "labelled": "The privacy label is changed.",
    "invited": "The invitation is on its way by e-mail.",
    "withdrawn": "The invitation is withdrawn.",
    "asked": "Your request is on its way. You get a letter when it is answered.",
    "sent": "Your message is sent.",
    "closed": "The conversation is closed.",
    "approved": "Approved: the message goes on.",
    "rejected": "Rejected: the message ends.",
    "answered": "The patient can read your answer now.",
    "solved": "The code has a meaning now, and what came with it is mapped again.",
    "made": "It is made.",
    "ended": "It is ended.",
    "changed": "It is changed.",
}


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("carefolio.doors.portal", "pages"), autoescape=True, auto_reload=False,
                       undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                       extensions=[language.Translated])  # fmt: skip
    made.filters |= {
        "day": telling.day, "moment": telling.moment, "at": lambda at: telling.moment(at.isoformat()),
        "on": lambda at: telling.day(at.isoformat()), "words": lambda text: str(text).replace("-", " "),
        "label": lambda label: language.translate(LABELS.get(str(label), str(label))), "t": language.translate,
    }  # fmt: skip
    made.globals |= {"address": address, "_": language.translate}
    return made


LABELS = {"general": "General health", "mental-health": "Mental health", "sexual-health": "Sexual health",
          "social-care": "Social care"}  # fmt: skip


def address(path: str, asked: Mapping[str, Any], **changed: Any) -> str:
    """An address with the parameters that were asked, and others in their place; empty ones are left out."""
    query = {name: value for name, value in ({**asked, "note": ""} | changed).items() if value not in ("", None)}
    return f"{path}?{urlencode(query)}" if query else path


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Response:
    """A table for a spreadsheet; what begins like a formula is kept from being one (OWASP, CSV injection)."""
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow(head)
    for row in rows:
        writer.writerow([f"'{cell}" if cell and cell[0] in "=+-@\t\r" else cell for cell in row])
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response("\ufeff" + made.getvalue(), 200, headers, "text/csv; charset=utf-8")


def place(item: Item) -> str:
    """Where a page of items begins, in its address."""
    return f"{item.at.isoformat()}_{item.number}"


def read_place(text: str) -> tuple[datetime, uuid.UUID] | None:
    """The place of an address; None where it is none."""
    at, _, number = text.partition("_")
    try:
        found = datetime.fromisoformat(at), uuid.UUID(number)
    except ValueError:
        return None
    return found if found[0].tzinfo else None


def first_error(error: Exception, names: Sequence[str]) -> dict[str, str]:
    """An error of the library's at the field of the form that it names."""
    name, mark, text = str(error).partition(": ")
    if mark and name in names:
        return {name: f"{text[:1].upper()}{text[1:]}"}
    said = str(error)
    return {"": f"{said[:1].upper()}{said[1:]}"}
