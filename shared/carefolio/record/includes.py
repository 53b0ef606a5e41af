"""What goes with the matches of a search: what they refer to, and what refers to them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from carefolio.cloud import addresses
from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.definitions import resource_types, search_parameters
from carefolio.fhir.paths import compile_path
from carefolio.record.access import Reader, readable, resources, with_contents
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.ids import internal_id
from carefolio.record.places import key

MOST_INCLUDED = 2000
_DEEPEST_INCLUDE = 6


@dataclass(frozen=True, slots=True)
class Found:
    """A stored resource: ``content`` is its JSON; ``mode`` match or include."""

    type: str
    id: uuid.UUID
    content: str
    mode: str = "match"


async def include(
    pool: Pool | Connection,
    reader: Reader,
    includes: Sequence[tuple[str, bool, bool]],
    matches: Sequence[Found],
) -> tuple[list[Found], bool]:
    """What a page's matches refer to, and what refers to them (R4 3.1.1.5.6), and whether there was more.

    ``includes`` are (the parameter's value, whether backwards, whether :iterate).
    """
    there = {found.id for found in matches}
    newest, gathered = list(matches), list[Found]()
    for depth in range(_DEEPEST_INCLUDE):
        now = includes if depth == 0 else [each for each in includes if each[2]]
        if not now or not newest:
            break
        wanted: dict[uuid.UUID, None] = {}
        added: list[Found] = []
        for value, backwards, _ in now:
            if backwards:
                added += await _referring(pool, reader, value, newest)
            else:
                for kind, number in _referred(value, newest):
                    wanted.setdefault(internal_id(kind, number))
        missing = [number for number in wanted if number not in there]
        if missing:
            arguments = Arguments()
            source = resources(reader, arguments.values)
            where = f"id = ANY({arguments.add(missing)}::uuid[]) AND {readable(reader, arguments.values)}"
            chosen = f"SELECT id, version, type, patient_id FROM {source} WHERE {where} LIMIT {MOST_INCLUDED + 1}"  # noqa: S608
            rows = await pool.fetch(with_contents(chosen, reader, arguments.values), *arguments.values)
            added += [Found(row["type"], row["id"], row["content"], "include") for row in rows]
        newest = []
        for found in added:
            if found.id in there:
                continue
            if len(gathered) + len(newest) >= MOST_INCLUDED:
                return gathered + newest, True
            there.add(found.id)
            newest.append(found)
        gathered += newest
    return gathered, False


def _referred(value: str, matches: Sequence[Found]) -> Iterable[tuple[str, str]]:
    """What the matches refer to by ``Type:parameter[:Target]``, ``Type:*`` or ``*``."""
    of, _, rest = value.partition(":")
    code, _, target = rest.partition(":")
    if of != "*" and (of not in resource_types() or not code):
        raise SearchError("_include", "Type:parameter, Type:parameter:Target, Type:* or *")
    if of != "*" and code != "*":
        parameter = search_parameters(of).get(code)
        if parameter is None or parameter.kind != "reference":
            raise SearchError("_include", f"{code} is not a reference parameter of {of}")
    for match in matches:
        if of not in ("*", match.type):
            continue
        parameters = [
            parameter
            for name, parameter in search_parameters(match.type).items()
            if parameter.kind == "reference" and (of == "*" or code in ("*", name))
        ]
        resource = orjson.loads(match.content)
        for parameter in parameters:
            for kind, number in local_references(compile_path(parameter.expression)(resource)):
                if not target or kind == target:
                    yield kind, number


async def _referring(pool: Pool | Connection, reader: Reader, value: str, matches: Sequence[Found]) -> list[Found]:
    """What refers to the matches by ``Type:parameter[:Target]`` or ``Type:*``."""
    of, _, rest = value.partition(":")
    code, _, target = rest.partition(":")
    if of not in resource_types() or not code:
        raise SearchError("_revinclude", "Type:parameter, Type:parameter:Target or Type:*")
    codes = [c for c, p in search_parameters(of).items() if p.kind == "reference" and code in ("*", c)]
    if not codes:
        raise SearchError("_revinclude", f"{code} is not a reference parameter of {of}")
    keys = [
        key(each, f"{match.type}/{logical_id(match.content)}")
        for match in matches
        if target in ("", match.type)
        for each in codes
    ]
    arguments = Arguments(selective=True)
    source = resources(reader, arguments.values)
    conditions = [
        arguments.of_types([of]),
        f"keys && {arguments.add(keys)}::bigint[]",
        readable(reader, arguments.values),
    ]
    where = " AND ".join(conditions)
    chosen = f"SELECT id, version, type, patient_id FROM {source} WHERE {where} LIMIT {MOST_INCLUDED + 1}"  # noqa: S608
    rows = await pool.fetch(with_contents(chosen, reader, arguments.values), *arguments.values)
    return [Found(row["type"], row["id"], row["content"], "include") for row in rows]


_LOCAL = re.compile(r"(?:\A|/)([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]+)?\Z")


def local_references(values: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """(type, id) of the references among ``values`` that point into this server."""
    for value in values:
        text = value if isinstance(value, str) else value.get("reference") if isinstance(value, dict) else None
        if not isinstance(text, str):
            continue
        if "://" in text:
            text = addresses.below(text) or ""
        if (match := _LOCAL.match(text)) and match.group(1) in resource_types():
            yield match.group(1), match.group(2)


def logical_id(content: str) -> str:
    """The id at the head of a stored resource."""
    start = content.index('"id":"') + 6
    return content[start : content.index('"', start)]
