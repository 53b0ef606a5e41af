"""FHIR JSON in and out, with every digit of its decimals (R4 2.6.2, 2.24.0.1)."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from carefolio.fhir.errors import error

_DEEPEST = 120


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXTREME = 1000
_LONGEST_INTEGER = 18


class SentDecimal(Decimal):
    """A decimal that is written as it was sent (``1.0E-5``, ``70.50``)."""

    text: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __deepcopy__(self, _: Any) -> Self:
        return self


def loads(text: bytes | str) -> Any:
    """A JSON document with Decimals. Raises FhirError for what is none, or has a name twice in one object."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        document = json.loads(
            text, parse_float=read_decimal, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_once
        )
        if _SURROGATE.search(text):
            # Half a character is valid JSON and no text.
            json.dumps(document, ensure_ascii=False, default=str).encode()
    except RecursionError:
        raise error(400, "too-long", f"nested more than {_DEEPEST} deep") from None
    except (ValueError, InvalidOperation):
        raise error(400, "structure", "the body is no JSON document in UTF-8") from None
    return document


def read_decimal(text: str) -> Decimal:
    """A decimal as it was sent. R4 2.24.0.1 wants 18 digits; what is beyond all measure is a ValueError."""
    made = SentDecimal(text)
    if len(text) > _EXTREME or abs(made.adjusted()) > _EXTREME:
        raise ValueError(text)
    return made


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _LONGEST_INTEGER else read_decimal(text)


def _constant(name: str) -> Any:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made
