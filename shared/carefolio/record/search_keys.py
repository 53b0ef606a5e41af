"""What search needs of a resource, by FHIR's own search parameters (R4, search-parameters.json), compiled once.

Token and reference values become 64-bit keys in one array per row; the type's main date becomes a range.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import Any, NamedTuple

import orjson

from carefolio.hl7.time import LONDON

Values = Callable[[dict[str, Any]], Iterable[Any]]

# The date by which a type's resources are put in order for a reader.
MAIN_DATE = {
    "AllergyIntolerance": "date",
    "Condition": "recorded-date",
    "DiagnosticReport": "date",
    "Encounter": "date",
    "Observation": "date",
    "Patient": "birthdate",
    "Specimen": "collected",
}


class DateRange(NamedTuple):
    """The first instant of a date of any precision, and the first one after it; both aware, in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Parameter:
    """A search parameter of one resource type; ``kind`` is token, reference or date."""

    name: str
    kind: str
    values: Values


class Indexed(NamedTuple):
    keys: list[int]
    date_from: datetime | None
    date_to: datetime | None


@lru_cache(maxsize=1)
def _definitions() -> dict[str, dict[str, list[str]]]:
    text = resources.files("carefolio.record").joinpath("definitions/search-parameters.json").read_bytes()
    loaded: dict[str, dict[str, list[str]]] = orjson.loads(text)
    return loaded


def types() -> list[str]:
    """Every resource type that search knows."""
    return sorted(_definitions())


@cache
def parameters(kind: str) -> dict[str, Parameter]:
    """The search parameters of a resource type that can be asked for, by name."""
    made = {}
    for name, (of, expression) in _definitions().get(kind, {}).items():
        if of in ("token", "reference") or name == MAIN_DATE.get(kind):
            made[name] = Parameter(name, of, _compile(expression, kind))
    return made


def index(resource: dict[str, Any]) -> Indexed:
    """The keys and dates of one resource."""
    kind = resource["resourceType"]
    keys: set[int] = set()
    span: DateRange | None = None
    for parameter in parameters(kind).values():
        if parameter.kind == "token":
            for value in parameter.values(resource):
                keys.update(token_keys(parameter.name, value))
        elif parameter.kind == "reference":
            for value in parameter.values(resource):
                if isinstance(value, dict) and (target := value.get("reference")):
                    keys.add(key(parameter.name, target))
        else:
            for value in parameter.values(resource):
                span = span or date_range_of(value)
    return Indexed(sorted(keys), span.start if span else None, span.end if span else None)


def key(parameter: str, value: str) -> int:
    """One searchable value of one parameter, as a signed 64-bit number."""
    digest = hashlib.blake2b(f"{parameter}\x1f{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def token_keys(parameter: str, value: Any) -> Iterable[int]:
    """The keys under which a coded value is found: with its system, without, and by system alone (R4 3.1.1.4.10)."""
    if isinstance(value, dict):
        codings = value.get("coding")
        if codings is None:
            codings = [value]
        for coding in codings:
            code = coding.get("code") or coding.get("value")
            system = coding.get("system", "")
            if code is not None:
                yield key(parameter, str(code))
                yield key(parameter, f"{system}|{code}")
            if system:
                yield key(parameter, f"{system}|")
    elif isinstance(value, bool):
        yield key(parameter, "true" if value else "false")
    else:
        yield key(parameter, str(value))


_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?\Z"
)


def date_range(text: str) -> DateRange:
    """The range that a FHIR date, dateTime or instant covers; without an offset it is London's.

    Raises ValueError for what is none of them.
    """
    match = _DATE.match(text)
    if not match:
        raise ValueError("not a date")
    year, month, day, hour, _, second, fraction, _ = match.groups()
    if hour is None:
        first = date(int(year), int(month or 1), int(day or 1))
        return DateRange(_midnight(first), _midnight(_after(first, months=bool(month), days=bool(day))))
    moment = datetime.fromisoformat(text)
    try:
        start = (moment.replace(tzinfo=LONDON) if moment.tzinfo is None else moment).astimezone(UTC)
        step = timedelta(milliseconds=1) if fraction else timedelta(seconds=1) if second else timedelta(minutes=1)
        return DateRange(start, start + step)
    except OverflowError:
        raise ValueError("a time beyond the calendar") from None


def _after(first: date, *, months: bool, days: bool) -> date | None:
    """The first day after the day, month or year that begins with ``first``; None at the end of the calendar."""
    try:
        if days:
            return first + timedelta(days=1)
        if months:
            return (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        return first.replace(year=first.year + 1)
    except (OverflowError, ValueError):
        return None


def _midnight(day: date | None) -> datetime:
    """A day begins at midnight in London (R4 3.1.1.4.7: the server's own zone where none is given)."""
    if day is None:
        return datetime.max.replace(tzinfo=UTC)
    try:
        return datetime(day.year, day.month, day.day, tzinfo=LONDON).astimezone(UTC)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if day.year > 1 else datetime.min.replace(tzinfo=UTC)


def date_range_of(value: Any) -> DateRange | None:
    """The range of an element: a date in text, or a Period, open ends far away; None for anything else."""
    try:
        if isinstance(value, str):
            return date_range(value)
        if isinstance(value, dict) and ("start" in value or "end" in value):
            start = date_range(value["start"]).start if "start" in value else datetime.min.replace(tzinfo=UTC)
            end = date_range(value["end"]).end if "end" in value else datetime.max.replace(tzinfo=UTC)
            return DateRange(start, end)
    except ValueError:
        return None
    return None


# --- FHIRPath as search parameters use it: paths, unions, as, where(resolve() is …), where(element='value').

_AS = re.compile(r"\(?([A-Za-z.]+) as ([A-Za-z]+)\)?\Z")
_STEP = re.compile(r"([A-Za-z]+)(?:\((.*)\))?\Z")


def _compile(expression: str, kind: str) -> Values:
    """The values that an expression selects from a resource of type ``kind``.

    Raises ValueError for what is not of the dialect above.
    """
    paths = [_compile_path(part.strip()) for part in expression.split("|")]
    if len(paths) == 1:
        return paths[0]

    def union(resource: dict[str, Any]) -> Iterable[Any]:
        for path in paths:
            yield from path(resource)

    return union


def _compile_path(path: str) -> Values:
    steps: list[Callable[[list[Any]], list[Any]]] = []
    cast = _AS.match(path)
    if cast:
        path = f"{cast.group(1)}.as({cast.group(2)})"
    names = _split(path)[1:]
    position = 0
    while position < len(names):
        name, argument = _step(names[position])
        following = _step(names[position + 1]) if position + 1 < len(names) else ("", None)
        if name == "where":
            steps.append(_where(argument or ""))
        elif following[0] == "as":
            steps.append(_child(name + (following[1] or "")[:1].upper() + (following[1] or "")[1:]))
            position += 1
        elif argument is None:
            steps.append(_child(name))
        else:
            raise ValueError(path)
        position += 1

    def select(resource: dict[str, Any]) -> Iterable[Any]:
        found: list[Any] = [resource]
        for step in steps:
            found = step(found)
            if not found:
                break
        return found

    return select


def _split(path: str) -> list[str]:
    """Split at dots outside parentheses."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(path):
        depth += (letter == "(") - (letter == ")")
        if letter == "." and not depth:
            parts.append(path[start:at])
            start = at + 1
    return [*parts, path[start:]]


def _step(text: str) -> tuple[str, str | None]:
    match = _STEP.match(text)
    if not match:
        raise ValueError(text)
    return match.group(1), match.group(2)


# The choice elements (name[x]) that search parameters reach by their stem.
_CHOICES = frozenset({
    "abatement", "asNeeded", "collected", "deceased", "due", "effective", "identified", "item",
    "location", "medication", "multipleBirth", "occurred", "occurrence", "onset", "performed",
    "product", "reported", "scheduled", "serviced", "source", "start", "timing", "topic", "value",
})  # fmt: skip


def _child(name: str) -> Callable[[list[Any]], list[Any]]:
    """An element by name, or a choice element by its stem (``effective`` finds ``effectiveDateTime``)."""
    stem = len(name)

    def child(found: list[Any]) -> list[Any]:
        out: list[Any] = []
        for item in found:
            if not isinstance(item, dict):
                continue
            value = item.get(name)
            if value is None and name in _CHOICES:
                value = next((v for k, v in item.items() if k.startswith(name) and k[stem : stem + 1].isupper()), None)
            if isinstance(value, list):
                out.extend(value)
            elif value is not None:
                out.append(value)
        return out

    return child


def _where(condition: str) -> Callable[[list[Any]], list[Any]]:
    if target := re.fullmatch(r"resolve\(\) is ([A-Za-z]+)", condition):
        prefix = f"{target.group(1)}/"
        return lambda found: [
            item for item in found if isinstance(item, dict) and prefix in str(item.get("reference", ""))
        ]
    if test := re.fullmatch(r"([a-z]+) ?= ?'([^']*)'", condition):
        name, wanted = test.groups()
        return lambda found: [item for item in found if isinstance(item, dict) and item.get(name) == wanted]
    raise ValueError(condition)
