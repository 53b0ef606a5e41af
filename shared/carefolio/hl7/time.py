"""HL7 v2 times (data types DT, TS and DTM, chapter 2.A.22): precision kept, wall clocks made aware at the door."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

_TIME = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9}))?)?)?)?)?)?([+-]\d{4})?\Z",
    re.ASCII,
)
LONDON = ZoneInfo("Europe/London")


class TimeFormatError(ValueError):
    """A text that is no HL7 time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """``precision`` is the number of digits given: 4 year, 6 month, 8 day, 10 hour, 12 minute, 14 second.

    ``instant`` is aware and in UTC; parts that were not given count as 1 (month, day) or 0 (time), as the
    reference product does (domain rules, timestamps). ``fhir`` is the FHIR date or dateTime of the same precision.
    """

    instant: datetime
    precision: int
    fhir: str

    @property
    def day(self) -> str:
        """The date alone, as precisely as it was given."""
        return self.fhir[:10]


def read_moment(text: str, zone: ZoneInfo = LONDON) -> Moment:
    """Read ``YYYY[MM[DD[HH[MM[SS[.S…]]]]]][+/-ZZZZ]``; an offset in the value wins over ``zone``.

    Raises TimeFormatError: a half-written component is an error, never a guess.
    """
    match = _TIME.match(text.strip())
    if not match:
        raise TimeFormatError("not a time of the form YYYY[MM[DD[HH[MM[SS]]]]][+/-ZZZZ]")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    precision = 4 + 2 * sum(part is not None for part in (month, day, hour, minute, second))
    try:
        if hour is None:
            given = date(int(year), int(month or 1), int(day or 1))
            instant = datetime(given.year, given.month, given.day, tzinfo=zone).astimezone(UTC)
            fhir = "-".join(part for part in (year, month, day) if part)
            return Moment(instant, precision, fhir)
        micro = int(((fraction or "") + "000000")[:6])
        clock = _offset(offset) if offset else zone
        clock_time = (int(hour), int(minute or 0), int(second or 0), micro)
        aware = datetime(int(year), int(month), int(day), *clock_time, tzinfo=clock)
        instant = aware.astimezone(UTC)
        # Windows of the spring change do not exist on the wall clock; going through UTC gives the time that was meant.
        shown = aware if offset else instant.astimezone(zone)
        if (shown.utcoffset() or timedelta()) % timedelta(minutes=1):
            # London's clock before 1847 was 75 seconds behind, which FHIR cannot say.
            shown = instant
        return Moment(instant, precision, shown.isoformat(timespec="milliseconds" if fraction else "seconds"))
    except (ValueError, OverflowError) as error:
        raise TimeFormatError("no such day or time") from error


def _offset(text: str) -> timezone:
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    if minutes > 14 * 60:
        raise TimeFormatError("an offset is at most 14 hours")
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
