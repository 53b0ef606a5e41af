"""The pages of a record: what is new, its sections, single items, trends, where they come from, what they were."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from carefolio.doors.portal.frame import PER_PAGE, Visit, place, read_place, record_page, table
from carefolio.fhir import text
from carefolio.fhir.definitions import resource_types
from carefolio.record import export, items, provenance, reading, sharing
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references
from carefolio.record.items import Item
from carefolio.view import cda, explanations, telling
from carefolio.view.charts import Line, Point, line_chart
from carefolio.view.sections import KINDS, SECTIONS, Section, section_of
from carefolio.view.telling import LONDON, Told, tell

_NEW = 8
_LONGEST_TEXT = 200_000
# Appointments that will not be.
_OFF = ("cancelled", "noshow", "entered-in-error")
_TREND = 120
_MOST_ROWS = 50
_MOST_CSV = 20_000
# What a browser shows by itself, in a sandbox; the rest is downloaded.
_SHOWN = {"image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"}


async def home(visit: Visit) -> Response:
    """GET /record: what is new, what comes, what is on its way."""
    found = await items.of_kinds(visit.pool, visit.reader, visit.record, KINDS, count=_NEW, newest=True)
    soon = await items.of_section(visit.pool, visit.reader, visit.record, SECTIONS["appointments"], count=20,
                                  start=datetime.now(UTC), soonest=True)  # fmt: skip
    coming = [each for each in soon if each.resource.get("status") not in _OFF]
    account = visit.session.account
    seen = await sharing.seen_by(visit.pool, account.id, visit.record) if account.is_professional else ([], False)
    allergies = []
    if account.is_professional:
        allergies = await items.of_section(visit.pool, visit.reader, visit.record, SECTIONS["allergies"], count=20)
    delayed = await items.delayed(visit.pool, visit.reader, visit.record) if visit.is_own else []
    return visit.page("home.html", new=_rows(visit, found), coming=_rows(visit, coming[:3]), delayed=delayed,
                      seen=seen[0], broken=seen[1], allergies=_rows(visit, allergies))  # fmt: skip


async def section(visit: Visit) -> Response:
    """GET /record/[section]: its items, the newest first; ``words``, ``from``, ``to``, ``as-of``, ``after``."""
    name = visit.path("section")
    if name not in SECTIONS:
        raise HTTPException(404, "there is no such page")
    return await _list(visit, SECTIONS[name], "section.html")


async def timeline(visit: Visit) -> Response:
    """GET /record/timeline: all sections together."""
    return await _list(visit, Section("timeline", "Timeline", KINDS, empty="What happens appears here."),
                       "section.html")  # fmt: skip


async def _list(visit: Visit, section: Section, template: str) -> Response:
    asked = _asked(visit)
    count = PER_PAGE
    if visit.query("format") == "csv":
        return _csv(await _read(visit, section, count=_MOST_CSV, **asked), section.name)
    found = await _read(visit, section, count=count + 1, after=read_place(visit.query("after")), **asked)
    shown = found[:count]
    rows = _rows(visit, shown)
    if section.name == "tests":
        rows = _grouped(rows)
    charts = await _charts(visit) if section.name == "measurements" and not visit.query("after") else []
    return visit.page(
        template, section=section, rows=rows, charts=charts, filtered=bool(asked),
        next=place(shown[-1]) if len(found) > count else "",
    )  # fmt: skip


def _asked(visit: Visit) -> dict[str, Any]:
    """The filters of the address."""
    asked: dict[str, Any] = {}
    if words := visit.query("words").strip():
        asked["words"] = words
    for name, key, more in (("from", "start", 0), ("to", "end", 1)):
        try:
            chosen = date.fromisoformat(visit.query(name))
            asked[key] = datetime.combine(chosen + timedelta(days=more), time(), LONDON)
        except (ValueError, OverflowError):
            continue
    return asked


async def _read(visit: Visit, section: Section, **asked: Any) -> list[Item]:
    if section.name == "timeline":
        return await items.of_kinds(visit.pool, visit.reader, visit.record, KINDS, **asked)
    return await items.of_section(visit.pool, visit.reader, visit.record, section, **asked)


def _rows(visit: Visit, found: Sequence[Item]) -> list[dict[str, Any]]:
    """Items as lists show them."""
    return [_row(visit, each) for each in found]


def _row(visit: Visit, item: Item) -> dict[str, Any]:
    return {
        "told": tell(item.resource), "item": item, "source": _source(visit, item),
        "section": SECTIONS.get(section_of(item.resource)), "link": f"{visit.base}/items/{item.type}/{item.id}",
        "results": [],
    }  # fmt: skip


def _source(visit: Visit, item: Item) -> str:
    said = export.source(item)
    return "you" if said == "the patient" and visit.is_own else said


def _grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results stand below the report that names them, where both are on the page."""
    reports = {
        number: row for row in rows if row["item"].type == "DiagnosticReport" for number in _results_of(row["item"])
    }
    alone = []
    for row in rows:
        report = reports.get(row["item"].number)
        if report is None:
            alone.append(row)
        else:
            report["results"].append(row)
    return alone


def _results_of(report: Item) -> list[uuid.UUID]:
    """The Observations that a report names."""
    named = [each.get("reference", "") for each in report.resource.get("result", [])]
    return [internal_id(kind, name) for kind, name in local_references(named) if kind == "Observation"]


async def item(visit: Visit) -> Response:
    """GET /record/items/[type]/[id]: one item, whole."""
    found = await _one(visit)
    told = tell(found.resource)
    results = []
    if found.type == "DiagnosticReport":
        numbers = _results_of(found)
        by_number = {each.number: each for each in await items.several(visit.pool, visit.reader, visit.record, numbers)}
        results = _rows(visit, [by_number[number] for number in numbers if number in by_number])
    files = _files(visit, found)
    mine = visit.may_write and found.own and export.is_by(found, visit.session.account.name, own=visit.is_own)
    return visit.page(
        "item.html", row=_row(visit, found), told=told, files=files, results=results,
        explanation=explanations.explain(found.resource), trend=_trend_link(visit, found),
        section=SECTIONS.get(section_of(found.resource)), calendar=_for_calendar(found, told), mine=mine,
        may_relabel=visit.is_own and found.type not in _GENERAL,
    )  # fmt: skip


_GENERAL = ("AllergyIntolerance", "MedicationRequest", "MedicationStatement", "MedicationDispense",
            "MedicationAdministration", "Patient")  # fmt: skip


async def _one(visit: Visit) -> Item:
    kind = visit.path("type")
    if kind not in resource_types():
        raise HTTPException(404, "there is no such page")
    found = await items.one(visit.pool, visit.reader, visit.record, internal_id(kind, visit.path("id")))
    if found is None or found.type != kind:
        raise HTTPException(404, "there is no such item, or it is not shared with you")
    return found


def _trend_link(visit: Visit, item: Item) -> str:
    """Where all values of the same test are; empty for what is no number."""
    told = tell(item.resource)
    measured = told.measured or any(part.measured for part in told.parts)
    coding: dict[str, Any] = (
        next(iter(item.resource.get("code", {}).get("coding", ())), {}) if item.type == "Observation" else {}
    )
    if not measured or not coding.get("code"):
        return ""
    asked = {"system": str(coding.get("system", "")), "code": str(coding["code"])}
    return f"{visit.base}/trend?{urlencode(asked)}{f'&as-of={visit.as_of}' if visit.as_of else ''}"


async def trend(visit: Visit) -> Response:
    """GET /record/trend?code=: all values of one test, as a chart and a table."""
    system, code = visit.query("system"), visit.query("code")
    found = await items.by_code(visit.pool, visit.reader, visit.record, system, code, count=_TREND) if code else []
    if not found:
        raise HTTPException(404, "there are no values of this test, or they are not shared with you")
    rows = _rows(visit, found)
    return visit.page(
        "trend.html", section=SECTIONS[section_of(found[0].resource) or "tests"], rows=rows[:_MOST_ROWS],
        more=len(rows) > _MOST_ROWS, chart=_chart(found),
        title=rows[0]["told"].title, explanation=explanations.explain(found[0].resource),
    )  # fmt: skip


def _chart(found: Sequence[Item]) -> str:
    """The chart of one test's values, of the unit that most have; of two parts where it has two."""
    told = [(each.at, tell(each.resource)) for each in found]
    lines: dict[str, list[Point]] = {}
    units = [m.unit for _, t in told for m in _measures(t).values()]
    unit = max(set(units), key=units.count) if units else ""
    lows, highs = [], []
    for at, each in told:
        for name, measured in _measures(each).items():
            if measured.unit == unit:
                outside = (measured.low is not None and measured.value < measured.low) or (
                    measured.high is not None and measured.value > measured.high)  # fmt: skip
                lines.setdefault(name, []).append(Point(at, measured.value, outside))
                lows += [measured.low] if measured.low is not None else []
                highs += [measured.high] if measured.high is not None else []
    single = len(lines) == 1
    return line_chart(
        f"{told[0][1].title} in {unit}" if unit else told[0][1].title,
        [Line(name, points) for name, points in list(lines.items())[:3]], unit,
        lows[0] if single and lows else None, highs[0] if single and highs else None,
    )  # fmt: skip


def _measures(told: Told) -> dict[str, Any]:
    if told.measured:
        return {told.title: told.measured}
    return {part.title: part.measured for part in told.parts if part.measured}


async def _charts(visit: Visit) -> list[dict[str, str]]:
    """A chart for each kind of measurement that has two values or more."""
    found = await items.of_section(visit.pool, visit.reader, visit.record, SECTIONS["measurements"], count=_TREND)
    by_title: dict[str, list[Item]] = {}
    for each in found:
        by_title.setdefault(tell(each.resource).title, []).append(each)
    return [
        {"title": title, "chart": _chart(of_kind), "link": _trend_link(visit, of_kind[0])}
        for title, of_kind in by_title.items()
        if len(of_kind) > 1
    ]


async def source(visit: Visit) -> Response:
    """GET /record/items/[type]/[id]/source: from which message or file each element came, down to the field."""
    found = await _one(visit)
    made = await provenance.of_target(visit.pool, visit.reader, found.type, found.number)
    return visit.page("source.html", row=_row(visit, found), made=[_told_source(each) for each in made])


def _told_source(made: dict[str, Any]) -> dict[str, Any]:
    entity = made["entity"][0]
    elements = []
    for extension in entity.get("extension", ()):
        told = {each["url"]: each["valueString"] for each in extension.get("extension", ())}
        elements.append((told.get("element", ""), told.get("field", "")))
    what = entity["what"]
    return {
        "when": made["recorded"], "who": made["agent"][0]["who"].get("display")
        or made["agent"][0]["who"].get("identifier", {}).get("value", ""),
        "what": what.get("display", ""), "number": what.get("identifier", {}).get("value", ""), "elements": elements,
    }  # fmt: skip


async def versions(visit: Visit) -> Response:
    """GET /record/items/[type]/[id]/versions: what it was before."""
    found = await _one(visit)
    history = await reading.history(visit.pool, visit.reader, kind=found.type, number=found.number, count=50)
    rows = [
        {"version": each.version, "at": each.at, "told": tell(text.loads(each.content)) if each.content else None}
        for each in history.versions
        if visit.reader.at is None or each.at < visit.reader.at
    ]
    return visit.page("versions.html", row=_row(visit, found), rows=rows)


async def file(visit: Visit) -> Response:
    """GET /record/files/[type]/[id]/[number]: a file of a document, where it can do no harm."""
    found = await _one(visit)
    number = visit.path("file")
    attachments = _attachments(found)
    if not (number.isascii() and number.isdigit() and len(number) < 6) or int(number) >= len(attachments):
        raise HTTPException(404, "there is no such file")
    attachment = attachments[int(number)]
    try:
        content = base64.b64decode("".join(str(attachment.get("data", "")).split()), validate=True)
    except binascii.Error:
        raise HTTPException(404, "the file cannot be read") from None
    media = str(attachment.get("contentType", "")).partition(";")[0].strip().lower()
    shown = media in _SHOWN and visit.query("download") != "1"
    name = quote(str(attachment.get("title") or f"document-{number}")[:100])
    # PDF viewers of browsers do not run in a sandbox; they run no script of the document in our name.
    sandbox = "default-src 'none'; object-src 'self'; frame-ancestors 'none'" if media == "application/pdf" else (
        "sandbox; default-src 'none'; img-src 'self'; frame-ancestors 'none'")  # fmt: skip
    headers = {
        "X-Frame-Options": "DENY",
        "Content-Disposition": f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{name}",
        "Content-Security-Policy": sandbox, "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }  # fmt: skip
    return Response(content, 200, headers, media if shown else "application/octet-stream")


def _attachments(item: Item) -> list[dict[str, Any]]:
    if item.type == "DocumentReference":
        found = [each.get("attachment", {}) for each in item.resource.get("content", [])]
    elif item.type == "DiagnosticReport":
        found = item.resource.get("presentedForm", [])
    else:
        found = []
    return [each for each in found if each.get("data")]


def _files(visit: Visit, item: Item) -> list[dict[str, Any]]:
    """The files of an item: a text is shown as it is, never as HTML; others are opened or downloaded."""
    files = []
    for number, attachment in enumerate(_attachments(item)):
        media = str(attachment.get("contentType", ""))
        made = {"title": attachment.get("title") or "Document", "media": media, "text": "",
                "link": f"{visit.base}/files/{item.type}/{item.id}/{number}",
                "image": media.partition(";")[0] in _SHOWN and media.startswith("image/")}  # fmt: skip
        raw = base64.b64decode("".join(str(attachment["data"]).split()))
        if media.startswith("text/plain"):
            made["text"] = _decoded(raw, media)[:_LONGEST_TEXT]
        elif cda.is_cda(media, raw):
            made["text"] = cda.plain_text(raw)
        files.append(made)
    return files


def _decoded(raw: bytes, media: str) -> str:
    """A text in its own character set; where that is not so, empty: a wrong letter in a dose does harm."""
    declared = re.search(r"charset=\"?([\w.:-]+)", media, re.IGNORECASE)
    for name in [declared[1]] if declared else ["utf-8", "windows-1252"]:
        try:
            return raw.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    return ""


async def calendar(visit: Visit) -> Response:
    """GET /record/items/Appointment/[id]/calendar.ics: for the phone's calendar; no more than it needs (RFC 5545)."""
    found = await _one(visit)
    told = tell(found.resource)
    times = _times(found, told)
    if times is None:
        raise HTTPException(404, "there is no time to put into a calendar")
    start, end, where = times
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Carefolio//EN", "BEGIN:VEVENT",
             f"UID:{found.number}@carefolio", f"DTSTAMP:{found.changed.astimezone(UTC):%Y%m%dT%H%M%SZ}",
             f"DTSTART:{start:%Y%m%dT%H%M%SZ}", f"DTEND:{end:%Y%m%dT%H%M%SZ}", f"SUMMARY:{_ics(told.title)}",
             *([f"LOCATION:{_ics(where)}"] if where else []), "END:VEVENT", "END:VCALENDAR", ""]  # fmt: skip
    headers = {"Content-Disposition": 'attachment; filename="appointment.ics"'}
    return Response("\r\n".join(lines), 200, headers, "text/calendar; charset=utf-8")


def _times(item: Item, told: Told) -> tuple[datetime, datetime, str] | None:
    """When an appointment begins and ends (half an hour where nothing says), and where it is; None for one that is
    cancelled, or has no such time.
    """
    if item.type != "Appointment" or "T" not in told.when or item.resource.get("status") in _OFF:
        return None
    try:
        start = datetime.fromisoformat(told.when).astimezone(UTC)
        end = datetime.fromisoformat(told.until).astimezone(UTC) if "T" in told.until else start + timedelta(minutes=30)
    except (ValueError, OverflowError):
        return None
    return start, end, next((value for name, value in told.facts if name == "Where"), "")


def _for_calendar(item: Item, told: Told) -> dict[str, Any] | None:
    """What the NHS App's calendar wants: seconds since 1970."""
    times = _times(item, told)
    if times is None:
        return None
    start, end, where = times
    return {"start": int(start.timestamp()), "end": int(end.timestamp()), "place": where}


def _ics(text: str) -> str:
    for plain in ("\\", ";", ","):
        text = text.replace(plain, f"\\{plain}")
    return re.sub(r"[\x00-\x1f\x7f]", " ", re.sub(r"\r\n?|\n", r"\\n", text))[:60]


async def as_pdf(visit: Visit) -> Response:
    """GET /record/record.pdf: everything that the reader sees, to print."""
    made = await export.as_pdf(visit.pool, visit.reader, visit.record)
    return Response(made, 200, {"Content-Disposition": 'attachment; filename="health-record.pdf"'}, "application/pdf")


async def as_bundle(visit: Visit) -> Response:
    """GET /record/record.json: the same as FHIR, for another app or another country."""
    made = await export.as_bundle(visit.pool, visit.reader, visit.record)
    headers = {"Content-Disposition": 'attachment; filename="health-record.json"'}
    return Response(made, 200, headers, "application/fhir+json")


async def older(visit: Visit) -> Response:
    """GET /record/as-it-was?day=: the record as of a day."""
    chosen = visit.query("day")
    try:
        date.fromisoformat(chosen)
    except ValueError:
        return visit.page("as_it_was.html", today=telling.today().isoformat())
    return RedirectResponse(f"{visit.base}?as-of={chosen}", 303)


def _csv(found: Sequence[Item], name: str) -> Response:
    """Items as a table."""
    rows = []
    for each in found:
        told = tell(each.resource)
        rows.append((told.when, told.title, told.value, told.flag, told.usual, told.status, export.source(each),
                     each.label, told.text))  # fmt: skip
    return table(name, ("date", "what", "value", "flag", "usual", "status", "from", "privacy label", "text"), rows)


ROUTES: list[Route] = [
    *record_page("", home, then=True),
    *record_page("/timeline", timeline, then=True),
    *record_page("/trend", trend, then=True),
    *record_page("/as-it-was", older),
    *record_page("/record.pdf", as_pdf, then=True),
    *record_page("/record.json", as_bundle, then=True),
    *record_page("/items/{type}/{id}", item, then=True),
    *record_page("/items/{type}/{id}/source", source, then=True),
    *record_page("/items/{type}/{id}/versions", versions, then=True),
    *record_page("/items/{type}/{id}/calendar.ics", calendar, then=True),
    *record_page("/files/{type}/{id}/{file}", file, then=True),
]
# After those of the other pages, since any name may be a section's.
SECTION_ROUTES: list[Route] = record_page("/{section}", section, then=True)
