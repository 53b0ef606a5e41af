"""Converters of the tables: a column's text (and its companions') -> an element's value.

Each raises ValueError for what is none.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from carefolio.emis import values
from carefolio.mapping.emis.model import BASE, ColumnError, Context, Rule, guid

LONDON = ZoneInfo("Europe/London")
_LONGEST_TEXT = 100_000
_COMPARATORS = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "≤": "<=", "≥": ">="}


@lru_cache(maxsize=50_000)
def _effective(day: str, precision: str, time: str) -> str:
    return values.effective(day, precision, time)


def effective(_: Context, day: str, precision: str) -> str | None:
    """EffectiveDate as far as it is known."""
    return _effective(day, precision, "") or None


def moment(_: Context, day: str, time: str = "") -> str:
    """A day, and its time on the clock of the wall where it is known."""
    return _effective(day, "YMDT" if time else "YMD", time)


def instant(_: Context, day: str, time: str = "") -> str:
    """A day and time as an instant: midnight where no time is known."""
    return _effective(day, "YMDT", time.strip() or "00:00:00")


def at(column: str, day_text: str, time: str) -> str:
    """An instant that has to be there. Raises ColumnError."""
    try:
        return _effective(day_text, "YMDT", time.strip() or "00:00:00")
    except ValueError:
        raise ColumnError(column, "no date and time") from None


def later(start: str, minutes: int) -> str:
    """An instant so many minutes after another."""
    return (datetime.fromisoformat(start).astimezone(UTC) + timedelta(minutes=minutes)).astimezone(LONDON).isoformat()


def period(start: str, end: str) -> dict[str, str]:
    """Two days, or two instants, as a Period: what ends before it starts has an end alone (R4 per-1)."""
    if start and end and datetime.fromisoformat(end) < datetime.fromisoformat(start):
        start = ""
    return {name: value for name, value in (("start", start), ("end", end)) if value}


def day(_: Context, text: str) -> str | None:
    """A day without a time."""
    found = values.day(text)
    return found.isoformat() if found else None


def text(_: Context, value: str) -> str | None:
    """A text, without spaces around it."""
    return value.strip()[:_LONGEST_TEXT] or None


def note(_: Context, value: str) -> dict[str, str] | None:
    """A text as an Annotation."""
    return {"text": plain} if (plain := value.strip()[:_LONGEST_TEXT]) else None


def plain_concept(_: Context, value: str) -> dict[str, str] | None:
    """A term of an open set."""
    return {"text": plain} if (plain := value.strip()) else None


def code(context: Context, value: str) -> dict[str, Any]:
    """CodeId of a clinical code."""
    return context.code(value).concept


def termed_code(context: Context, value: str, term: str) -> dict[str, Any]:
    """CodeId with the words that the clinician chose."""
    concept = context.code(value).concept
    return concept if not term.strip() or term.strip() == concept.get("text") else concept | {"text": term.strip()}


def drug(context: Context, value: str) -> dict[str, Any]:
    """CodeId of a medicine."""
    return context.drug(value).concept


def practitioner(context: Context, value: str) -> dict[str, str]:
    """A UserInRoleGuid."""
    return context.shared("Practitioner", value)


def performer(context: Context, value: str) -> dict[str, Any]:
    """A UserInRoleGuid as the ``actor`` of what was done."""
    return {"actor": context.shared("Practitioner", value)}


def organisation(context: Context, value: str) -> dict[str, str]:
    """An OrganisationGuid."""
    return context.shared("Organization", value)


def encounter(context: Context, value: str) -> dict[str, str]:
    """A ConsultationGuid."""
    return context.own("Encounter", guid(value))


def problem(context: Context, value: str) -> dict[str, str]:
    """A ProblemGuid: the Condition of that observation's problem."""
    return context.own("Condition", guid(value))


def problem_extension(context: Context, value: str) -> dict[str, Any]:
    """A ProblemGuid where the resource has no reason."""
    return {"url": f"{BASE}problem", "valueReference": problem(context, value)}


@lru_cache(maxsize=20_000)
def decimal(value: str) -> Decimal:
    """A number with the digits that were sent. Raises ValueError."""
    found = values.number(value)
    if found is None or not -(10**16) < found < 10**16 or int(found.as_tuple().exponent) < -12:
        raise ValueError("not a number that a record can hold")
    return found.quantize(Decimal(1)) if found == found.to_integral() and int(found.as_tuple().exponent) > 0 else found


def quantity(_: Context, value: str, unit: str, operator: str = "") -> dict[str, Any]:
    """Value, NumericUnit and NumericOperator."""
    made: dict[str, Any] = {"value": decimal(value)}
    if comparator := _COMPARATORS.get(operator.strip()):
        made["comparator"] = comparator
    if plain := unit.strip():
        made["unit"] = plain
    return made


def low(_: Context, value: str, unit: str, high: str) -> dict[str, Any]:
    """NumericRangeLow with its unit, and NumericRangeHigh."""
    made = {"low": quantity(_, value, unit)}
    if high.strip():
        made["high"] = quantity(_, high, unit)
    return made


def high(_: Context, value: str, unit: str, below: str) -> dict[str, Any] | None:
    """NumericRangeHigh alone."""
    return None if below.strip() else {"high": quantity(_, value, unit)}


def truth(_: Context, value: str) -> bool:
    """true or false."""
    return values.boolean(value)


def whole(_: Context, value: str) -> int:
    """A whole number of minutes, days, issues."""
    found = values.number(value)
    if found is None or found != found.to_integral() or not -(2**31) < found < 2**31:
        raise ValueError("not a whole number")
    return int(found)


def days(_: Context, value: str) -> dict[str, Any]:
    """A number of days as a Duration."""
    number = whole(_, value)
    return {"value": number, "unit": "days", "system": "http://unitsofmeasure.org", "code": "d"}


def recorded(day_column: str = "EnteredDate", time_column: str = "EnteredTime") -> Rule:
    """When a row was typed, for resources that have no element for it."""

    def convert(context: Context, day_text: str, time_text: str) -> dict[str, str]:
        return {"url": f"{BASE}recorded", "valueDateTime": moment(context, day_text, time_text)}

    return Rule(f"{day_column} {time_column}", "extension[]", convert)


def recorder() -> Rule:
    """Who typed a row, for resources that have no element for it."""

    def convert(context: Context, value: str) -> dict[str, Any]:
        return {"url": f"{BASE}recorder", "valueReference": context.shared("Practitioner", value)}

    return Rule("EnteredByUserInRoleGuid", "extension[]", convert)
