"""Dates, numbers and quantities as ranges on one line, and the coarse places by which an index finds them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from decimal import Context, Decimal
from functools import lru_cache
from typing import NamedTuple

LIMIT = Decimal(10) ** 19
_BAND = 10**20
# Bands and their numbers together have more digits than decimals have by themselves.
_WIDE = Context(prec=160)


class Interval(NamedTuple):
    """A half-open range of numbers; dates are microseconds since 1970. ``low`` = ``high`` is one point."""

    low: Decimal
    high: Decimal


@lru_cache(maxsize=60_000)
def key(parameter: str, value: str) -> int:
    """One searchable value of one parameter, as a signed 64-bit number."""
    digest = hashlib.blake2b(f"{parameter}\x1f{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def range_literal(band: str, interval: Interval) -> str:
    """The interval within its band of numbers, as PostgreSQL writes a numrange."""
    base = Decimal(band_of(band) * _BAND)
    low, high = _WIDE.add(base, interval.low), _WIDE.add(base, interval.high)
    return f"[{low:f},{high:f}{']' if interval.low == interval.high else ')'}"


def literals(interval: Interval) -> Callable[[str], str]:
    """``range_literal`` of one interval in several bands: the digits after the band's are the same in all of them."""
    low, high = interval
    if low < 0:
        return lambda band: range_literal(band, interval)
    ends = [f"{int(end):020d}{'.' + text if (text := f'{end:f}'.partition('.')[2]) else ''}" for end in (low, high)]
    close = "]" if low == high else ")"

    def literal(band: str) -> str:
        number = band_of(band)
        return f"[{number}{ends[0]},{number}{ends[1]}{close}"

    return literal


@lru_cache(maxsize=20_000)
def band_of(band: str) -> int:
    """Where on the line of numbers the values of a parameter stand."""
    return int.from_bytes(hashlib.blake2b(band.encode(), digest_size=6).digest()) + 1


def buckets(band: str, kind: str, interval: Interval) -> Iterable[int]:
    """The keys of a stored value: coarse places on the line, by which an index finds it."""
    return {key(f"{band}#", place) for place in places_of(kind, interval)}


def places_of(kind: str, interval: Interval) -> list[str]:
    """The places of a stored value, in any band."""
    return list(date_places(interval) if kind == "date" else number_places(interval))


_MONTH = Decimal(30 * 86_400 * 1_000_000)
# Levels of places on the line of time: month, year and decade of 30-day months.
_LEVELS = (1, 12, 120)
_MOST_PLACES = 14
_EARLIEST, _LATEST = -12 * 900, 12 * 1200


def _months(interval: Interval) -> tuple[int, int]:
    first = max(_EARLIEST, min(_LATEST, int((interval.low / _MONTH).to_integral_value(rounding="ROUND_FLOOR"))))
    last = max(_EARLIEST, min(_LATEST, int((interval.high / _MONTH).to_integral_value(rounding="ROUND_FLOOR"))))
    return first, max(first, last)


def date_places(interval: Interval) -> Iterator[str]:
    """Of a stored range: its months, years and decades; ``long`` where it has too many of one level."""
    first, last = _months(interval)
    for level in _LEVELS:
        start, end = first // level, last // level
        if end - start > _MOST_PLACES:
            yield f"{level}:long"
        else:
            yield from (f"{level}:{place}" for place in range(start, end + 1))


def date_cover(interval: Interval) -> Iterator[str]:
    """Of a range that is asked for: places that every stored range which touches it has one of."""
    first, last = _months(interval)
    coarsest = len(_LEVELS) - 1
    for number_of, level in enumerate(_LEVELS):
        yield f"{level}:long"
        start, end = first // level, last // level
        if number_of == coarsest or end - start <= 2 * _MOST_PLACES:
            yield from (f"{level}:{place}" for place in range(start, end + 1))
            return
        # The ends at this level, what lies between at the next.
        upper = _LEVELS[number_of + 1] // level
        inner_start, inner_end = -(-start // upper), (end + 1) // upper
        yield from (
            f"{level}:{place}" for place in (*range(start, inner_start * upper), *range(inner_end * upper, end + 1))
        )
        first, last = inner_start * upper * level, inner_end * upper * level - 1


# Femtolitres are so small in base units.
_LEAST_POWER = -30


def _decade(value: Decimal) -> int:
    return max(_LEAST_POWER, min(20, value.adjusted()))


def number_places(interval: Interval) -> Iterator[str]:
    """Of a stored number or range: sign, power of ten and first digit."""
    if interval.low != interval.high:
        yield "long"
        return
    value = interval.low
    if value == 0:
        yield "0"
        return
    sign = "-" if value < 0 else "+"
    power = _decade(value)
    digit = int(abs(value).scaleb(-value.adjusted()))
    yield f"{sign}{power}"
    yield f"{sign}{power}:{digit}"


def number_cover(interval: Interval) -> Iterator[str]:
    """Of a range that is asked for: places that every stored number in it has one of."""
    yield "long"
    if interval.low <= 0 <= interval.high:
        yield "0"
    for sign, low, high in (("+", interval.low, interval.high), ("-", -interval.high, -interval.low)):
        if high <= 0:
            continue
        low_power = _decade(low) if low > 0 else _LEAST_POWER
        high_power = _decade(high)
        for power in range(low_power, high_power + 1):
            if low_power < power < high_power or low <= 0:
                yield f"{sign}{power}"
                continue
            inner = _LEAST_POWER < power < 20
            first = int(low.scaleb(-low.adjusted())) if power == low_power and inner else 1
            last = int(high.scaleb(-high.adjusted())) if power == high_power and inner else 9
            yield from (f"{sign}{power}:{digit}" for digit in range(first, last + 1))
