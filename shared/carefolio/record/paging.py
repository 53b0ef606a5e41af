"""The order of a search's answer, and where in it a page begins (R4 3.1.1.5.1, 3.1.1.5.2)."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import orjson

from carefolio.fhir.definitions import SearchParameter, search_parameters, type_of_path
from carefolio.record import search_index as ix
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.places import LIMIT, Interval, range_literal


def order_by(kinds: Sequence[str], text: str) -> tuple[str, bool]:
    """The SQL by which a parameter sorts, and whether it is descending."""
    descending = text.startswith("-")
    name = text.removeprefix("-").partition(":")[0]
    if name == "_lastUpdated":
        return "last_updated", descending
    if name == "_id":
        return "id", descending
    if len(kinds) == 1:
        kind = kinds[0]
        if ix.MAIN_DATE.get(kind) == name:
            return "date_to" if descending else "date_from", descending
        name = ix.kept_as(kind, name)
        parameter = search_parameters(kind).get(name)
        if parameter is not None and parameter.kind == "string":
            least = "max" if descending else "min"
            texts = f"SELECT {least}(t.text) FROM unnest(texts) AS t (text) WHERE t.text LIKE '{name}\x1f%'"  # noqa: S608
            return f"({texts})", descending
        if parameter is not None and parameter.kind in ("date", "number", "quantity"):
            span = f"numrange '{range_literal(name, Interval(-LIMIT, LIMIT))}'"
            edge = "max(upper(r.span))" if descending else "min(lower(r.span))"
            ranges = f"SELECT {edge} FROM unnest(ranges) AS r (span) WHERE r.span && {span}"  # noqa: S608 - ours
            return f"({ranges})", descending
        if parameter is not None and (path := _json_path(kind, parameter)):
            return f"(jsonb_path_query_first(content::jsonb, '{path}') #>> '{{}}')", descending
    raise SearchError("_sort", "one of _id, _lastUpdated, and the type's own parameters without a composite")


# What of a coded or referring element sorts it.
_SORTED_PART = {
    "CodeableConcept": ".coding.code", "Coding": ".code", "ContactPoint": ".value", "Identifier": ".value",
    "Reference": ".reference", "boolean": "", "canonical": "", "code": "", "id": "", "string": "", "uri": "", "url": "",
}  # fmt: skip


def _json_path(kind: str, parameter: SearchParameter) -> str:
    """The PostgreSQL path of a token's, reference's or URI's first value; empty where it has no plain path."""
    if parameter.kind not in ("token", "reference", "uri"):
        return ""
    path = parameter.expression.partition("|")[0].strip().partition(".where(")[0]
    part = _SORTED_PART.get(type_of_path(kind, parameter.expression))
    return "" if part is None else "$" + path.removeprefix(kind) + part


def cursor_of(row: asyncpg.Record, keys: int) -> str:
    values = [_text(row[f"sort{number}"]) for number in range(keys)]
    return base64.urlsafe_b64encode(orjson.dumps([values, str(row["id"])])).decode().rstrip("=")


def _text(value: Any) -> list[str] | None:
    """A sorted value with the letter of its type."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return ["t", value.isoformat()]
    # asyncpg's UUID is a class of its own.
    return ["u" if isinstance(value, uuid.UUID) else "n" if isinstance(value, Decimal) else "s", str(value)]


def after(order: Sequence[tuple[str, bool]], cursor: str, arguments: Arguments) -> str:
    """What comes after the last row of the page before; rows without a sorted value come last."""
    try:
        texts, number = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        last = [*(_value(text) for text in texts), uuid.UUID(number)]
        if len(last) != len(order):
            raise ValueError
    except (ValueError, TypeError, KeyError, ArithmeticError, binascii.Error):
        raise SearchError("_cursor", "not a cursor of this search") from None
    beyond = []
    equal: list[str] = []
    for (sql, descending), value in zip(order, last, strict=True):
        if value is None:
            equal.append(f"{sql} IS NULL")
            continue
        kind = {datetime: "timestamptz", Decimal: "numeric", uuid.UUID: "uuid"}.get(type(value), "text")
        placeholder = f"{arguments.add(value)}::{kind}"
        further = f"({sql} {'<' if descending else '>'} {placeholder} OR {sql} IS NULL)"
        beyond.append(" AND ".join([*equal, further]))
        equal.append(f"{sql} = {placeholder}")
    return "((" + ") OR (".join(beyond) + "))"


def _value(text: Any) -> Any:
    if text is None:
        return None
    kind, value = text
    if kind == "t":
        return datetime.fromisoformat(value)
    return Decimal(value) if kind == "n" else uuid.UUID(value) if kind == "u" else str(value)
