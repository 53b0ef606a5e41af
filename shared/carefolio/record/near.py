"""Location?near=latitude|longitude|distance|units (R4 8.6.7.1): a box by the index, then the way over the globe."""

from __future__ import annotations

import math
from decimal import Decimal

from carefolio.fhir.units import UCUM, unit
from carefolio.record.places import Interval

_METRES_OF_A_DEGREE = 111_320
_DEFAULT_METRES = 10_000
_EARTH = 6_371_000


def asked(value: str) -> tuple[float, float, float]:
    """Latitude, longitude and metres of a value; 10 kilometres where it names no other. Raises ValueError."""
    latitude, longitude, *rest = (part.strip() for part in value.split("|"))
    if len(rest) > 2:
        raise ValueError(value)
    code = (rest[1] if len(rest) == 2 else "") or "km"
    known = unit(code.removeprefix(f"{UCUM}|"))
    if known is None or known.dimension != "meter":
        raise ValueError(code)
    metres = float(rest[0]) * float(known.factor) if rest and rest[0] else float(_DEFAULT_METRES)
    north, east = float(latitude), float(longitude)
    if not (-90 <= north <= 90 and -180 <= east <= 180 and 0 <= metres <= _EARTH * math.pi):
        raise ValueError(value)
    return north, east, metres


def box(latitude: float, longitude: float, metres: float) -> tuple[Interval, Interval]:
    """Latitudes and longitudes that hold all within so many metres; all longitudes near a pole or the date line."""
    north = metres / _METRES_OF_A_DEGREE * 1.01
    widest = math.cos(math.radians(min(90.0, abs(latitude) + north)))
    east = 360.0 if widest < 0.01 else north / widest
    low, high = longitude - east, longitude + east
    if low < -180 or high > 180:
        low, high = -180.0, 180.0
    return _interval(latitude - north, latitude + north), _interval(low, high)


def _interval(low: float, high: float) -> Interval:
    return Interval(Decimal(repr(low)), Decimal(repr(high)) + Decimal("1e-9"))


def within(latitude: str, longitude: str, metres: str) -> str:
    """SQL: whether a Location is within so many metres, by the haversine formula; the arguments are placeholders."""
    there = "radians((content::jsonb #>> '{{position,{}}}')::float8)"
    lat, lon = there.format("latitude"), there.format("longitude")
    half = f"sin(({lat} - radians({latitude})) / 2) ^ 2"
    other = f"cos(radians({latitude})) * cos({lat}) * sin(({lon} - radians({longitude})) / 2) ^ 2"
    return f"{2 * _EARTH} * asin(sqrt(least(1, {half} + {other}))) <= {metres}"
