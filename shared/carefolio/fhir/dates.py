"""FHIR dates as ranges (R4 3.1.1.4.7)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

LONDON = ZoneInfo("Europe/London")


class DateRange(NamedTuple):
    """The first instant of a date of any precision, and the first one after it; both aware, in UTC."""

    start: datetime
    end: datetime


_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?\Z")


@lru_cache(maxsize=20_000)
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
    leap = second == "60"
    # A leap second is the end of its minute: Python knows none.
    moment = datetime.fromisoformat(text.replace(":60", ":59", 1) if leap else text) + timedelta(seconds=leap)
    try:
        start = (moment.replace(tzinfo=LONDON) if moment.tzinfo is None else moment).astimezone(UTC)
        # As many digits of a second as there are are its precision, to the microsecond.
        finest = timedelta(microseconds=10 ** max(0, 6 - len(fraction))) if fraction else timedelta(seconds=1)
        step = finest if second else timedelta(minutes=1)
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
    """The range of an element: a date in text, a Period, or a Timing by its outer limits; None for anything else."""
    try:
        if isinstance(value, str):
            return date_range(value)
        if isinstance(value, dict) and ("start" in value or "end" in value):
            start = date_range(value["start"]).start if "start" in value else datetime.min.replace(tzinfo=UTC)
            end = date_range(value["end"]).end if "end" in value else datetime.max.replace(tzinfo=UTC)
            return DateRange(start, end)
        if isinstance(value, dict):
            repeat = value.get("repeat", {})
            bounds = repeat.get("boundsPeriod") if isinstance(repeat, dict) else None
            inner = [date_range_of(each) for each in (*value.get("event", []), bounds)]
            spans = [span for span in inner if span]
            if spans:
                return DateRange(min(span.start for span in spans), max(span.end for span in spans))
    except (ValueError, OverflowError):
        return None
    return None
