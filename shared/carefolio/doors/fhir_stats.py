"""Observation/$stats: what is asked, of a query, a form or Parameters (R4 observation-stats)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import Parameters, given
from carefolio.doors.fhir_requests import reader_of
from carefolio.mapping.serialise import dumps
from carefolio.record import stats
from carefolio.record.arguments import SearchError


async def observation_stats(request: Request) -> Response:
    """GET, POST Observation/$stats: what measurements come to; Parameters with ``statistics`` and ``source``."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Observation", "s")
    asked = _asked(Parameters(await given(request)))
    with span("stats"):
        counted = await stats.count(await database.pool(), reader_of(token), asked)
    made = [f'{{"name":"statistics","resource":{dumps(each).decode()}}}' for each in counted.made]
    made += [f'{{"name":"source","resource":{each}}}' for each in counted.sources]
    return answers.answer(f'{{"resourceType":"Parameters","parameter":[{",".join(made)}]}}')


def _asked(said: Parameters) -> stats.Asked:
    """Raises SearchError that names the parameter."""
    subject = said.text("subject")
    if not subject or "," in subject:
        raise SearchError("subject", "whose measurements is needed: one")
    codings = _codings(said)
    chosen = said.listed("statistic")
    if not chosen:
        raise SearchError("statistic", "at least one is needed")
    period = _period(said)
    include, limit = said.flag("include"), said.number("limit", 1, stats.MOST)
    said.done()
    subject = subject if "/" in subject else f"Patient/{subject}"
    return stats.Asked(subject, codings, chosen, period, include, limit or stats.MOST)


def _codings(said: Parameters) -> list[tuple[str, str]]:
    """As Coding, as a token (system|code), or as a code of ``system``."""
    system = said.text("system")
    made = []
    for code in said.many("code"):
        before, bar, after = code.rpartition("|")
        made.append((before, after) if bar else (system, code))
    made += [(str(each.get("system", "")), str(each.get("code", ""))) for each in said.several("coding")]
    if not 1 <= len(made) <= stats.MOST_CODES or not all(code for _, code in made):
        raise SearchError("code", f"from 1 to {stats.MOST_CODES} are needed")
    return made


def _period(said: Parameters) -> tuple[str, str]:
    period = said.value("period") or {}
    if duration := said.text("duration"):
        return stats.since(duration), ""
    return str(period.get("start", "")), str(period.get("end", ""))
