"""UCUM units in their base units, from a compiled table (scripts/compile-definitions)."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import orjson

UCUM = "http://unitsofmeasure.org"
# Factors such as 1/60 have no end: what is equal in two units is equal to so many digits.
_DIGITS = Context(prec=9)


class Unit(NamedTuple):
    """``value * factor + offset`` is in the base units that ``dimension`` names."""

    factor: Decimal
    offset: Decimal
    dimension: str

    def canonical(self, value: Decimal) -> Decimal:
        """A value of this unit in base units, to nine digits."""
        return _DIGITS.fma(value, self.factor, self.offset)


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[str, str, str]]:
    table: dict[str, tuple[str, str, str]] = orjson.loads(
        resources.files("carefolio.fhir").joinpath("definitions/units.json").read_bytes()
    )
    return table


@lru_cache(maxsize=2000)
def unit(code: str) -> Unit | None:
    """The unit of a UCUM code; None where it is not known, or not comparable with others."""
    found = _table().get(code)
    return Unit(Decimal(found[0]), Decimal(found[1]), found[2]) if found else None
