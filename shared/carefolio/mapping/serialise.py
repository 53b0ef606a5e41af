"""Resources as JSON text, with every number's digits as they were sent (70.50 stays 70.50; FHIR R4 2.24.0.1)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson


def dumps(value: Any, *, indent: bool = False) -> bytes:
    """JSON in UTF-8; Decimals become numbers, those that were read (carefolio.fhir.text) as they were written."""
    return orjson.dumps(value, default=_number, option=orjson.OPT_INDENT_2 if indent else None)


def _number(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(getattr(value, "text", None) or str(value))
    raise TypeError(type(value).__name__)
