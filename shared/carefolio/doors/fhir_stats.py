"""Observation/$stats: what is asked, of a query, a form or Parameters (R4 observation-stats)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import given
from carefolio.doors.fhir_requests import reader_of
from carefolio.mapping.serialise import dumps
from carefolio.record import stats
from carefolio.record.arguments import SearchError


async def observation_stats(request: Request) -> Response:
    """GET, POST Observation/$stats: what measurements come to; Parameters with ``statistics`` and ``source``."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Observation", "s")
    asked = _Given(await given(request)).read()
    with span("stats"):
        counted = await stats.count(await database.pool(), reader_of(token), asked)
    made = [f'{{"name":"statistics","resource":{dumps(each).decode()}}}' for each in counted.made]
    made += [f'{{"name":"source","resource":{each}}}' for each in counted.sources]
    return answers.answer(f'{{"resourceType":"Parameters","parameter":[{",".join(made)}]}}')


class _Given:
    """The parameters; each is read once, and one that nobody reads is unknown."""

    def __init__(self, said: list[tuple[str, Any]]) -> None:
        self._by_name: dict[str, list[Any]] = {}
        for name, value in said:
            self._by_name.setdefault(name, []).append(value)

    def read(self) -> stats.Asked:
        """Raises SearchError that names the parameter."""
        subject = self._one("subject")
        if not subject or "," in subject:
            raise SearchError("subject", "whose measurements is needed: one")
        codings = self._codings()
        chosen = list(dict.fromkeys(each for value in self._texts("statistic") for each in value.split(",")))
        if not chosen:
            raise SearchError("statistic", "at least one is needed")
        period = self._period()
        include, limit = self._one("include", "false"), self._one("limit", str(stats.MOST))
        if include not in ("true", "false"):
            raise SearchError("include", "true or false")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 9 or not 1 <= int(limit) <= stats.MOST:
            raise SearchError("limit", f"a number from 1 to {stats.MOST}")
        for name in self._by_name:
            raise SearchError(name, "not a parameter of $stats")
        subject = subject if "/" in subject else f"Patient/{subject}"
        return stats.Asked(subject, codings, chosen, period, include == "true", int(limit))

    def _codings(self) -> list[tuple[str, str]]:
        """As Coding, as a token (system|code), or as a code of ``system``."""
        system = self._one("system")
        made = []
        for code in self._texts("code"):
            before, bar, after = code.rpartition("|")
            made.append((before, after) if bar else (system, code))
        for each in self._by_name.pop("coding", []):
            if not isinstance(each, dict):
                raise SearchError("coding", "a Coding, which goes in Parameters; or code and system")
            made.append((str(each.get("system", "")), str(each.get("code", ""))))
        if not 1 <= len(made) <= stats.MOST_CODES or not all(code for _, code in made):
            raise SearchError("code", f"from 1 to {stats.MOST_CODES} are needed")
        return made

    def _period(self) -> tuple[str, str]:
        (period,) = self._by_name.pop("period", [{}])[:1]
        if not isinstance(period, dict):
            raise SearchError("period", "a Period, which goes in Parameters; or a duration")
        if duration := self._one("duration"):
            return stats.since(duration), ""
        return str(period.get("start", "")), str(period.get("end", ""))

    def _texts(self, name: str) -> list[str]:
        values = self._by_name.pop(name, [])
        if not all(isinstance(each, str) for each in values):
            raise SearchError(name, "no such type of it")
        return values

    def _one(self, name: str, otherwise: str = "") -> str:
        values = self._texts(name) or [otherwise]
        if len(values) > 1:
            raise SearchError(name, "once")
        return values[0]
