"""Statistics of a patient's measurements (R4 Observation $stats).

(http://hl7.org/fhir/R4/observation-operation-stats.html) Of each code, the values of Observations and of components
that have it. A value counts that has a UCUM unit and is exact: one that is ``< 5``, has a modifier extension or another
unit is of the total alone. Values are brought into the unit of the latest; where units cannot be
brought into one another each has its own answer, for no mean is of both.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import anyio.to_thread

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.dates import date_range_of
from carefolio.fhir.units import UCUM, Unit, unit
from carefolio.record import search
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError

# Of one question: codes, and the observations of a code.
MOST_CODES = 20
MOST = 10_000
_SYSTEM = "http://terminology.hl7.org/CodeSystem/observation-statistics"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_DIGITS = Context(prec=9)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """``codings`` are (system, code); of ``period`` an end may be empty; ``limit`` is of the sources in the answer."""

    subject: str
    codings: Sequence[tuple[str, str]]
    statistics: Sequence[str]
    period: tuple[str, str] = ("", "")
    include: bool = False
    limit: int = MOST


@dataclass(frozen=True, slots=True)
class Counted:
    """The statistics as Observations, and those that they are of, where these were asked for."""

    made: list[dict[str, Any]]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class _Value:
    at: datetime | None
    value: Decimal
    unit: str


@dataclass(slots=True)
class _Series:
    """Values in one unit, as they were sent and in the unit of the latest."""

    unit: str
    values: list[Decimal] = field(default_factory=list)
    timed: list[tuple[datetime, Decimal]] = field(default_factory=list)


async def count(pool: Pool, reader: Reader, asked: Asked) -> Counted:
    """Raises SearchError for what is no statistic, or more than MOST observations of a code."""
    if not set(asked.statistics) <= set(STATISTICS):
        raise SearchError("statistic", f"one is unknown; there are {', '.join(STATISTICS)}")
    made: list[dict[str, Any]] = []
    sources: dict[str, None] = {}
    for coding in asked.codings:
        contents = [content async for content in _found(pool, reader, asked, coding)]
        if asked.include:
            sources |= dict.fromkeys(contents[: asked.limit])
        made += await anyio.to_thread.run_sync(_of_code, asked, coding, contents)
    return Counted(made, list(sources)[: asked.limit])


async def _found(pool: Pool, reader: Reader, asked: Asked, coding: tuple[str, str]) -> Any:
    start, end = asked.period
    token = "|".join(re.sub(r"([\\,$|])", r"\\\1", part) for part in coding if part)
    query = [("subject", asked.subject), ("combo-code", token), ("status:not", "entered-in-error"),
             ("_count", str(search.MAX_COUNT)), ("_sort", "-date"), ("_total", "none")]  # fmt: skip
    query += [("date", f"{mark}{moment}") for mark, moment in (("ge", start), ("le", end)) if moment]
    seen, cursor = 0, ""
    while True:
        paged = [*query, ("_cursor", cursor)] if cursor else query
        page = await search.search(pool, reader, ["Observation"], paged, strict=True)
        seen += len(page.found)
        if seen > MOST:
            raise SearchError("code", f"more than {MOST} observations: a duration or period makes them fewer")
        for each in page.found:
            yield each.content
        if page.cursor is None:
            return
        cursor = page.cursor


def _of_code(asked: Asked, coding: tuple[str, str], contents: list[str]) -> list[dict[str, Any]]:
    measured = [each for content in contents for each in _measured(text.loads(content), coding)]
    series = _series([each for each in measured if each is not None])
    times = [at for each in series for at, _ in each.timed]
    period = dict(zip(("start", "end"), asked.period, strict=True))
    if times:
        period["start"] = period["start"] or min(times).isoformat()
        period["end"] = period["end"] or max(times).isoformat()
    common = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": coding[0], "code": coding[1]} if coding[0] else {"code": coding[1]}]},
        "subject": {"reference": asked.subject},
        "effectivePeriod": {name: value for name, value in period.items() if value},
    }
    common = {name: value for name, value in common.items() if value}
    return [
        common | {"component": [part for name in asked.statistics for part in _component(name, each, len(measured))]}
        for each in series or [_Series("")]
    ]


def _measured(resource: dict[str, Any], coding: tuple[str, str]) -> Iterator[_Value | None]:
    """Each value of the code; None for one that is of the total alone."""
    shown = next((date_range_of(resource[name]) for name in ("effectiveDateTime", "effectiveInstant", "effectivePeriod")
                  if name in resource), None)  # fmt: skip
    at = shown.start if shown and shown.start.year > 1 else None
    for part in (resource, *resource.get("component", [])):
        if any(_is(each, coding) for each in part.get("code", {}).get("coding", [])):
            yield None if "modifierExtension" in resource else _value(part, at)


def _is(coding: dict[str, Any], asked: tuple[str, str]) -> bool:
    return coding.get("code") == asked[1] and (not asked[0] or coding.get("system") == asked[0])


def _value(part: dict[str, Any], at: datetime | None) -> _Value | None:
    quantity = part.get("valueQuantity", {})
    if "value" not in quantity or "comparator" in quantity or "modifierExtension" in part:
        return None
    if quantity.get("system") != UCUM or not quantity.get("code"):
        return None
    return _Value(at, Decimal(quantity["value"]), quantity["code"])


def _series(values: list[_Value]) -> list[_Series]:
    """The latest first, so that its unit is the one of its series."""
    by_measure: dict[str, _Series] = {}
    for each in values:
        measured = _measure(each.unit)
        series = by_measure.setdefault(measured.dimension if measured else each.unit, _Series(each.unit))
        value = each.value
        if measured and each.unit != series.unit:
            wanted = _measure(series.unit)
            assert wanted is not None
            value = _DIGITS.divide(measured.canonical(value) - wanted.offset, wanted.factor)
        series.values.append(value)
        if each.at is not None:
            series.timed.append((each.at, value))
    return list(by_measure.values())


def _measure(code: str) -> Unit | None:
    """A unit that others can be brought into; None for one that is only itself.

    A percentage is no mmol/mol (HbA1c), an equivalent no mole (calcium), mL/min no mL/min/{1.73_m2} (eGFR), though
    UCUM gives them one dimension.
    """
    if "{" in code or "eq" in code or "osm" in code:
        return None
    found = unit(code)
    return None if found is None or found.dimension == "dimensionless" else found


def _component(name: str, series: _Series, total: int) -> Iterator[dict[str, Any]]:
    code = {"coding": [{"system": _SYSTEM, "code": name}]}
    if name in ("count", "total-count"):
        yield {"code": code, "valueQuantity": {"value": total if name == "total-count" else len(series.values)}}
        return
    if name == "regression":
        for text_, value, of in _regression(series):
            yield {"code": code | {"text": text_}, **_quantity(value, of)}
        return
    reckon, unit_of = _RECKONED[name]
    try:
        value = reckon(sorted(series.values)) if series.values else None
    except statistics.StatisticsError:
        value = None
    yield {"code": code, **_quantity(value, unit_of(series.unit))}


def _quantity(value: Decimal | None, of: str) -> dict[str, Any]:
    if value is None:
        return {"dataAbsentReason": {"coding": [{"system": _ABSENT, "code": "not-applicable"}]}}
    # Of nine digits those that tell, and none with an exponent.
    try:
        written = text.read_decimal(f"{_DIGITS.plus(value).normalize():f}")
    except ValueError:
        return _quantity(None, of)
    return {"valueQuantity": {"value": written, "unit": of, "system": UCUM, "code": of}}


def _regression(series: _Series) -> list[tuple[str, Decimal | None, str]]:
    """The line through the values over time: its rise a day, and where it is at the first of them."""
    gradient: Decimal | None = None
    intercept: Decimal | None = None
    if len({at for at, _ in series.timed}) > 1:
        first = min(at for at, _ in series.timed)
        days = [(at - first) / _DAY for at, _ in series.timed]
        line = statistics.linear_regression(days, [float(value) for _, value in series.timed])
        gradient, intercept = Decimal(line.slope), Decimal(line.intercept)
    return [("gradient", gradient, f"{_part(series.unit)}/d"), ("intercept", intercept, series.unit)]


def _part(of: str) -> str:
    """A unit as a part of another: 10*9/L is no number of anything until it is in brackets."""
    return f"({of})" if "/" in of or "." in of else of


def _same(of: str) -> str:
    return of


def _squared(of: str) -> str:
    return f"{_part(of)}.{_part(of)}"


def _none(_: str) -> str:
    return "1"


def _share(numerator: int, denominator: int) -> Callable[[list[Decimal]], Decimal]:
    """A quantile, between neighbours by its distance from them (the method of most programs: R's type 7)."""

    def at(values: list[Decimal]) -> Decimal:
        whole, rest = divmod((len(values) - 1) * numerator, denominator)
        above = values[min(whole + 1, len(values) - 1)]
        return values[whole] + (above - values[whole]) * rest / denominator

    return at


def _moment(power: int) -> Callable[[list[Decimal]], Decimal]:
    """The standardised central moment of the N measurements: 3 is skewness, 4 kurtosis (which is 3 of the normal)."""

    def of(values: list[Decimal]) -> Decimal:
        mean, spread = statistics.mean(values), statistics.pstdev(values)
        if not spread:
            raise statistics.StatisticsError
        return statistics.mean(((each - mean) / spread) ** power for each in values)

    return of


def _deviation(values: list[Decimal]) -> Decimal:
    return (_share(3, 4)(values) - _share(1, 4)(values)) / 2


# By code: the reckoning, of values in order, and its unit from theirs.
_RECKONED: dict[str, tuple[Callable[[list[Decimal]], Decimal], Callable[[str], str]]] = {
    "average": (statistics.mean, _same),
    "maximum": (_share(1, 1), _same),
    "minimum": (_share(0, 1), _same),
    "median": (statistics.median, _same),
    "std-dev": (statistics.stdev, _same),
    "sum": (lambda values: sum(values, Decimal()), _same),
    "variance": (statistics.variance, _squared),
    "20-percent": (_share(1, 5), _same),
    "80-percent": (_share(4, 5), _same),
    "4-lower": (_share(1, 4), _same),
    "4-upper": (_share(3, 4), _same),
    "4-dev": (_deviation, _same),
    "5-1": (_share(1, 5), _same),
    "5-2": (_share(2, 5), _same),
    "5-3": (_share(3, 5), _same),
    "5-4": (_share(4, 5), _same),
    "skew": (_moment(3), _none),
    "kurtosis": (_moment(4), _none),
}
STATISTICS = ("count", "total-count", *_RECKONED, "regression")


def since(hours: str) -> str:
    """The moment so many hours ago, as a search takes it. Raises SearchError for what is no duration."""
    try:
        moment = datetime.now(UTC) - timedelta(hours=float(hours))
    except (OverflowError, ValueError):
        raise SearchError("duration", "not a number of hours") from None
    if float(hours) <= 0:
        raise SearchError("duration", "hours back from now")
    return moment.isoformat()
