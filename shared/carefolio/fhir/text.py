"""FHIR JSON in and out, with every digit of its decimals (R4 2.6.2, 2.24.0.1)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from carefolio.fhir.errors import error

_DEEPEST = 120


def loads(text: bytes | str) -> Any:
    """A JSON document with Decimals. Raises FhirError for what is none, or has a name twice in one object."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_once)
    except RecursionError:
        raise error(400, "too-long", f"nested more than {_DEEPEST} deep") from None
    except ValueError:
        raise error(400, "structure", "the body is no JSON document in UTF-8") from None


def _constant(name: str) -> Any:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made
