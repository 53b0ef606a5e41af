"""The search parameters that there are: FHIR's own, and what organisations defined (SearchParameter resources).

A process knows of a new one within REFRESH seconds, the one that stored it at once. What was written before, or
meanwhile, is indexed in the background (carefolio.record.reindex).
"""

from __future__ import annotations

import re
import time
import uuid
from collections import defaultdict
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.definitions import SearchParameter, resource_types, search_parameters
from carefolio.fhir.errors import error
from carefolio.fhir.paths import compile_path

REFRESH = 10
MOST = 50
_TYPES = ("date", "number", "quantity", "reference", "string", "token", "uri")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}\Z")
_custom: dict[str, dict[tuple[uuid.UUID, str], SearchParameter]] = {}
_unfinished: set[tuple[uuid.UUID, str]] = set()
_version = 0
_read_at = float("-inf")


def find(kind: str, code: str, organisation_id: uuid.UUID | None) -> SearchParameter | None:
    """A parameter of a type, as an organisation asks for it; None where there is none."""
    standard = search_parameters(kind).get(code)
    if standard is not None or organisation_id is None:
        return standard
    return _custom.get(kind, {}).get((organisation_id, code))


def custom(kind: str) -> list[SearchParameter]:
    """What organisations defined for a type, each under a code that is its own."""
    return list(_custom.get(kind, {}).values())


def is_unfinished(code: str, organisation_id: uuid.UUID) -> bool:
    """Whether older resources are still being indexed by a parameter."""
    return (organisation_id, code) in _unfinished


def version() -> int:
    """Grows with every change of what this process knows."""
    return _version


async def refresh(pool: Pool | Connection, *, now: bool = False) -> None:
    """Know what organisations defined, where that was read REFRESH seconds ago or longer."""
    global _read_at, _version
    if not now and time.monotonic() - _read_at < REFRESH:
        return
    _read_at = time.monotonic()
    rows = await pool.fetch(
        "SELECT organisation_id, code, base, type, expression, target, indexed_at IS NULL AS unfinished"
        " FROM search_parameter"
    )
    known: dict[str, dict[tuple[uuid.UUID, str], SearchParameter]] = defaultdict(dict)
    for row in rows:
        owner, code = row["organisation_id"], row["code"]
        for kind in row["base"]:
            expression = _of_type(row["expression"], kind)
            if expression:
                known[kind][owner, code] = SearchParameter(
                    f"{code}@{owner.hex}", row["type"], expression, tuple(row["target"]), ()
                )
    _unfinished.clear()
    _unfinished.update((row["organisation_id"], row["code"]) for row in rows if row["unfinished"])
    if known != _custom:
        _custom.clear()
        _custom.update(known)
        _version += 1


def _of_type(expression: str, kind: str) -> str:
    """The part of an expression of several types that is about one."""
    parts = [part.strip() for part in expression.split("|")]
    return " | ".join(part for part in parts if re.match(rf"\(*{kind}\b", part))


def check(resource: dict[str, Any]) -> None:
    """Raise FhirError where a SearchParameter is not one that can be indexed."""
    if resource.get("status") != "active":
        return
    wrong = {
        "code": not _CODE.match(str(resource.get("code"))),
        "type": resource.get("type") not in _TYPES,
        "base": not set(resource.get("base", [])) <= resource_types(),
        "expression": not resource.get("expression"),
    }
    for element, is_wrong in wrong.items():
        if is_wrong:
            raise error(422, "not-supported", "an active parameter cannot be indexed so", f"SearchParameter.{element}")
    for kind in resource["base"]:
        if resource["code"] in search_parameters(kind):
            raise error(422, "duplicate", f"{kind} has a standard parameter of this code", "SearchParameter.code")
        try:
            expression = _of_type(resource["expression"], kind)
            compile_path(expression)({"resourceType": kind})
        except ValueError:
            expression = ""
        if not expression:
            reason = f"no path of {kind} that can be indexed (paths, where(x='…'), as(), [n], |)"
            raise error(422, "not-supported", reason, "SearchParameter.expression")


async def remove(connection: Connection, number: uuid.UUID) -> None:
    """Nothing is searched by it any more."""
    await connection.execute("DELETE FROM search_parameter WHERE id = $1", number)


async def store(
    connection: Connection, number: uuid.UUID, organisation_id: uuid.UUID, resource: dict[str, Any]
) -> None:
    """What a SearchParameter resource says from now on. Raises FhirError."""
    if resource.get("status") != "active":
        await remove(connection, number)
        return
    there = await connection.fetch("SELECT id, code FROM search_parameter WHERE organisation_id = $1", organisation_id)
    others = [row["code"] for row in there if row["id"] != number]
    if resource["code"] in others:
        raise error(409, "duplicate", "another SearchParameter of yours has this code", "SearchParameter.code")
    if len(others) >= MOST:
        raise error(422, "too-costly", f"an organisation has at most {MOST} search parameters", "SearchParameter")
    await connection.execute(
        """
        INSERT INTO search_parameter (id, organisation_id, code, base, type, expression, target)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (id) DO UPDATE SET code = $3, base = $4, type = $5, expression = $6, target = $7,
            created_at = now(), indexed_to = NULL, indexed_at = NULL
        """,
        number,
        organisation_id,
        resource["code"],
        resource["base"],
        resource["type"],
        resource["expression"],
        resource.get("target", []),
    )
