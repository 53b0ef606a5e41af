"""Values as EMIS writes them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from zoneinfo import ZoneInfo

_LONDON = ZoneInfo("Europe/London")
_RAILWAY_TIME = 1848
_GUID = re.compile(r"\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?\Z")
_TRUE, _FALSE = frozenset(("true", "1")), frozenset(("false", "0", ""))


class Precision(Enum):
    """How much of a date is known (EffectiveDatePrecision)."""

    UNKNOWN = "U"
    YEAR = "Y"
    MONTH = "YM"
    DAY = "YMD"
    TIME = "YMDT"


def guid(text: str) -> str:
    """In capitals, without braces; '' for none. Raises ValueError."""
    if not text:
        return ""
    match = _GUID.match(text.strip())
    if match is None:
        raise ValueError("not a GUID")
    return match.group(1).upper()


def boolean(text: str) -> bool:
    """true or false in any letters, 1 or 0 as they were once written; empty is false. Raises ValueError."""
    plain = text.strip().lower()
    if plain in _TRUE:
        return True
    if plain in _FALSE:
        return False
    raise ValueError("neither true nor false")


def number(text: str) -> Decimal | None:
    """A decimal number, None for none. Raises ValueError."""
    plain = text.strip()
    if not plain:
        return None
    try:
        found = Decimal(plain)
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not found.is_finite():
        raise ValueError("not a number")
    return found


def day(text: str) -> date | None:
    """``yyyy-MM-dd``, None for none. Raises ValueError."""
    try:
        return date.fromisoformat(text.strip()[:10]) if text.strip() else None
    except ValueError:
        # Python's own words would quote it.
        raise ValueError("not a date") from None


def effective(day_text: str, precision: str, time_text: str = "") -> str:
    """A date as FHIR writes it, as far as it is known: '' , YYYY, YYYY-MM, YYYY-MM-DD, or an instant with its offset.

    The wall clock is Britain's: what happened twice when the clocks went back is taken for the first of the two. Raises
    ValueError.
    """
    try:
        return _effective(day_text, precision, time_text)
    except ValueError:
        raise ValueError("not a date") from None


def _effective(day_text: str, precision: str, time_text: str) -> str:
    kind = Precision(precision.strip().upper() or ("YMD" if day_text.strip() else "U"))
    if kind is Precision.UNKNOWN or not day_text.strip():
        return ""
    whole = datetime.fromisoformat(day_text.strip().replace("T", " "))
    if kind is Precision.YEAR:
        return f"{whole.year:04}"
    if kind is Precision.MONTH:
        return f"{whole.year:04}-{whole.month:02}"
    clock = time.fromisoformat(time_text.strip()) if time_text.strip() else whole.time()
    if kind is Precision.DAY or (not time_text.strip() and clock == time.min):
        return whole.date().isoformat()
    # Before railway time London's own was 75 seconds behind: an offset that no instant can have.
    zone = _LONDON if whole.year >= _RAILWAY_TIME else UTC
    return datetime.combine(whole.date(), clock, zone).isoformat()
