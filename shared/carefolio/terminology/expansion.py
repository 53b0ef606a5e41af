"""What is in a value set (R4 4.9.5): its definition as SQL over the concepts, so that a large one is never unrolled."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from carefolio.cloud.database import Connection, Pool
from carefolio.terminology import ecl
from carefolio.terminology.concepts import words_of
from carefolio.terminology.store import Canonical, find

SNOMED = "http://snomed.info/sct"
MOST = 1000
_DEEPEST = 10
# What a filter finds is put in order as far as this: the shortest names, which lie first.
_MOST_FOUND = 2000
_MOST_COUNTED = 50_000
_MOST_PARTS, _LONGEST_REGEX = 500, 200


class ExpansionError(Exception):
    """A value set that cannot be expanded; ``missing``: something that it is made of is not here."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Member:
    """A concept in a value set."""

    system: str
    version: str
    code: str
    display: str
    active: bool
    abstract: bool
    names: list[tuple[str, str, str]]


@dataclass(slots=True)
class Expansion:
    """A page; ``total`` is None where nobody counted so far, ``used`` are the systems and versions, ``url|version``."""

    members: list[Member] = field(default_factory=list)
    total: int | None = None
    used: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Made:
    """A statement on its way."""

    values: list[Any] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)
    parts: int = 0

    def count(self, number: int) -> None:
        """Raise ExpansionError where a value set has more parts than one question may have, those of its parts too."""
        self.parts += number
        if self.parts > _MOST_PARTS:
            raise ExpansionError(f"more than {_MOST_PARTS} parts")

    def add(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


class ValueSets:
    """Value sets as an organisation knows them."""

    def __init__(self, pool: Pool | Connection, organisation: uuid.UUID | None) -> None:
        self._pool = pool
        self._organisation = organisation
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    async def definition(self, url: str, version: str = "") -> dict[str, Any]:
        """The ValueSet resource at a URL; one that a system implies too. Raises ExpansionError."""
        if (url, version) not in self._known:
            self._known[url, version] = await self._definition(url, version)
        return self._known[url, version]

    async def _definition(self, url: str, version: str) -> dict[str, Any]:
        found = await find(self._pool, "ValueSet", url, self._organisation, version)
        if found is not None:
            return found.content
        if (implied := await self._implied(url)) is not None:
            return implied
        raise ExpansionError(f"the value set {url[:200]} is not known here", missing=True)

    async def _implied(self, url: str) -> dict[str, Any] | None:
        """All of a code system (CodeSystem.valueSet), or what SNOMED CT's own URLs say (R4 4.3.1.3)."""
        base, _, query = url.partition("?")
        system = base.partition("/module/")[0] if base.startswith(SNOMED) else ""
        said = dict(parse_qsl(query, keep_blank_values=True)).get("fhir_vs")
        if system.rpartition("/sct")[0] + "/sct" == SNOMED and said is not None:
            kind, _, rest = said.partition("/")
            include: dict[str, Any] = {"system": SNOMED}
            if kind in ("isa", "refset", "ecl") and rest:
                operator = {"isa": "<< ", "refset": "^ ", "ecl": ""}[kind]
                include["filter"] = [{"property": "constraint", "op": "=", "value": operator + rest}]
            elif said:
                raise ExpansionError(f"fhir_vs={said[:60]} is not one that is known here")
            return {"resourceType": "ValueSet", "url": url, "compose": {"include": [include]}}
        row = await self._pool.fetchrow(
            """
            SELECT url FROM canonical WHERE kind = 'CodeSystem' AND ready AND content ->> 'valueSet' = $1
            AND (organisation_id IS NULL OR organisation_id = $2) ORDER BY id DESC LIMIT 1
            """,
            url,
            self._organisation,
        )
        if row is None:
            return None
        return {"resourceType": "ValueSet", "url": url, "compose": {"include": [{"system": row["url"]}]}}

    async def expand(
        self,
        value_set: dict[str, Any],
        *,
        text: str = "",
        count: int | None = None,
        offset: int = 0,
        active: bool = False,
        code: tuple[str | None, str] | None = None,
        selectable: bool = False,
    ) -> Expansion:
        """A page of a value set; ``text`` is the filter (all of its words begin a word of a name).

        ``code``: (system or None, code), the one that is asked about; ``selectable``: none that are for grouping alone.
        Raises ExpansionError.
        """
        made = _Made()
        source = await self._members(value_set, made, 0)
        conditions = ["m.active"] if active else []
        conditions += ["NOT m.abstract"] if selectable else []
        words = words_of(text)
        if text and not words:
            return Expansion(total=0)
        if words:
            conditions.append(f"m.words @@ {made.add(' & '.join(f'{word}:*' for word in words))}::text::tsquery")
        if code is not None:
            conditions.append(f"m.code = {made.add(code[1])}")
            if code[0] is not None:
                conditions.append(f"m.system = {made.add(code[0])}")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        page = f"""
            SELECT m.system, m.version, m.code, m.display, m.active, m.abstract, m.names, m.place
            FROM ({source}) AS m {where}
        """  # noqa: S608 - ours
        order = "place, code"
        if words:
            page = f"SELECT *, count(*) OVER () AS found FROM ({page} LIMIT {_MOST_FOUND}) AS first"  # noqa: S608
            # The name that says the least beside what was asked for.
            order = "length(display), display, code"
        wanted = MOST + 1 if count is None else count
        rows = await self._pool.fetch(
            f"{page} ORDER BY {order} OFFSET {made.add(offset)} LIMIT {made.add(wanted)}", *made.values, timeout=20
        )
        if count is None and len(rows) > MOST:
            raise ExpansionError(f"more than {MOST} concepts: ask with a filter, or with count and offset")
        found = Expansion(used=list(made.used))
        found.members = [
            Member(row["system"], row["version"], row["code"], row["display"], row["active"], row["abstract"],
                   [tuple(each) for each in json.loads(row["names"] or "[]")])
            for row in rows
        ]  # fmt: skip
        if len(rows) < wanted and (rows or not offset):
            found.total = offset + len(rows)
        elif words and rows:
            found.total = rows[0]["found"] if rows[0]["found"] < _MOST_FOUND else None
        else:
            found.total = await self._count(page, made.values[:-2])
        return found

    async def _count(self, page: str, values: Sequence[Any]) -> int | None:
        bounded = f"SELECT count(*) FROM (SELECT FROM ({page}) AS all_of_it LIMIT {_MOST_COUNTED + 1}) AS counted"  # noqa: S608
        number = await self._pool.fetchval(bounded, *values, timeout=20)
        return number if number <= _MOST_COUNTED else None

    async def _members(self, value_set: dict[str, Any], made: _Made, depth: int) -> str:
        """A SELECT of all that is in a value set: system, version, code, display, active, names, words, place."""
        if depth > _DEEPEST:
            raise ExpansionError(f"value sets of value sets, deeper than {_DEEPEST}")
        compose = value_set.get("compose") or {}
        if not compose.get("include"):
            contained = value_set.get("expansion", {}).get("contains")
            if contained:
                return self._listed([*_flat(contained)], made)
            raise ExpansionError("the value set has no definition (compose)")
        parts = [*compose["include"], *compose.get("exclude", [])]
        made.count(sum(1 + len(each.get("valueSet", [])) for each in parts))
        included = [await self._part(each, made, depth) for each in compose["include"]]
        excluded = [await self._part(each, made, depth) for each in compose.get("exclude", [])]
        source = " UNION ALL ".join(f"({each})" for each in included)
        if len(included) > 1:
            # What is in twice is in once.
            source = (
                f"SELECT DISTINCT ON (u.system, u.code) u.* FROM ({source}) AS u ORDER BY u.system, u.code, u.place"  # noqa: S608
            )
        if excluded:
            out = " UNION ALL ".join(f"(SELECT x.system, x.code FROM ({each}) AS x)" for each in excluded)  # noqa: S608
            source = f"SELECT i.* FROM ({source}) AS i WHERE (i.system, i.code) NOT IN ({out})"  # noqa: S608
        if compose.get("inactive") is False:
            source = f"SELECT i.* FROM ({source}) AS i WHERE i.active"  # noqa: S608
        return source

    async def _part(self, part: dict[str, Any], made: _Made, depth: int) -> str:
        """An include or exclude: what all that it says has in common."""
        imported = [
            await self._members(await self.definition(url), made, depth + 1) for url in part.get("valueSet", [])
        ]
        source = await self._of_system(part, made) if "system" in part else imported.pop(0) if imported else ""
        if not source:
            raise ExpansionError("a part of the value set names neither a system nor a value set")
        for each in imported:
            source = f"""
                SELECT i.* FROM ({source}) AS i
                WHERE EXISTS (SELECT FROM ({each}) AS x WHERE x.system = i.system AND x.code = i.code)
            """  # noqa: S608
        return source

    async def _of_system(self, part: dict[str, Any], made: _Made) -> str:
        url = part["system"]
        system = await find(self._pool, "CodeSystem", url, self._organisation, part.get("version", ""))
        if system is not None and not system.concepts and system.content.get("content") == "not-present":
            system = None
        if "concept" in part:
            version = system.version if system else ""
            said = {each["code"]: each for each in part["concept"] if "code" in each}
            listed = [{"system": url, "version": version} | each for each in said.values()]
            if system is not None:
                made.used[f"{url}|{system.version}" if system.version else url] = None
            return self._listed(listed, made, system)
        if system is None:
            raise ExpansionError(f"the code system {url[:200]} is not loaded here", missing=True)
        made.used[f"{url}|{system.version}" if system.version else url] = None
        filters = [await self._filter(system, each, made) for each in part.get("filter", [])]
        conditions = [f"c.system_id = {system.id}", *filters]
        return f"""
            SELECT {made.add(url)}::text AS system, {made.add(system.version)}::text AS version, c.code, c.display,
                   c.active, {_ABSTRACT} AS abstract, c.names, c.words, c.number AS place
            FROM concept c WHERE {" AND ".join(conditions)}
        """  # noqa: S608 - ours

    def _listed(self, listed: Sequence[dict[str, Any]], made: _Made, system: Canonical | None = None) -> str:
        """Concepts that are named one by one; what their system says of them, where it is loaded."""
        arrays = ", ".join(
            (
                f"{made.add([each.get('system', '') for each in listed])}::text[]",
                f"{made.add([each.get('version', '') for each in listed])}::text[]",
                f"{made.add([each['code'] for each in listed])}::text[]",
                f"{made.add([each.get('display') for each in listed])}::text[]",
                f"{made.add([' '.join(words_of(each.get('display') or each['code'])) for each in listed])}::text[]",
            )
        )
        given = f"unnest({arrays}) WITH ORDINALITY AS given (system, version, code, display, words, place)"
        if system is None:
            return f"""
                SELECT given.system, given.version, given.code, coalesce(given.display, given.code) AS display,
                       true AS active, false AS abstract, NULL::jsonb AS names, given.words::tsvector AS words,
                       given.place::int AS place
                FROM {given}
            """  # noqa: S608 - ours
        # A code that its own system does not have is none, unless not all of the system is here.
        whole = "c.code IS NOT NULL" if system.content.get("content") == "complete" else "true"
        return f"""
            SELECT given.system, given.version, given.code, coalesce(given.display, c.display, given.code) AS display,
                   coalesce(c.active, true) AS active, {_ABSTRACT} AS abstract, c.names,
                   coalesce(c.words || given.words::tsvector, given.words::tsvector) AS words, given.place::int AS place
            FROM {given} LEFT JOIN concept c ON c.system_id = {system.id} AND c.code = given.code WHERE {whole}
        """  # noqa: S608 - ours

    async def _filter(self, system: Canonical, said: dict[str, Any], made: _Made) -> str:
        """A filter of compose (R4 4.9.8) as a predicate on ``c``."""
        name, operator, value = (str(said.get(each, "")) for each in ("property", "op", "value"))

        async def number(code: str) -> int:
            found = await self._pool.fetchval(
                "SELECT number FROM concept WHERE system_id = $1 AND code = $2", system.id, code
            )
            return found or 0

        if name in ("constraint", "expression") and operator == "=":
            try:
                return await ecl.condition(value, number)
            except ecl.EclError as error:
                raise ExpansionError(f"{name}: {error}") from None
        if operator in ("is-a", "descendent-of", "is-not-a", "generalizes"):
            at = await number(value)
            return {
                "is-a": f"c.above @> ARRAY[{at}]",
                "descendent-of": f"(c.above @> ARRAY[{at}] AND c.number <> {at})",
                "is-not-a": f"NOT c.above @> ARRAY[{at}]",
                "generalizes": f"c.number = ANY({ecl.above(at)})",
            }[operator]
        if name == "concept" and operator == "in" and system.url == SNOMED:
            return f"c.above @> ARRAY[{-await number(value)}]"
        if name in ("parent", "child") and operator == "=":
            at = await number(value)
            return f"c.parents @> ARRAY[{at}]" if name == "parent" else f"c.number = ANY({ecl.above(at, 'parents')})"
        if name in ("code", "concept", "display"):
            return _compared("c.display" if name == "display" else "c.code", operator, value, made)
        if name == "inactive" and operator == "=":
            return "NOT c.active" if value == "true" else "c.active"
        if not await self._is_property(system, name):
            raise ExpansionError(f"no concept of the system has the property {name[:60]}")
        values = f"(c.properties -> {made.add(name)}::text)"
        if operator == "exists":
            return f"{values} IS {'NOT NULL' if value == 'true' else 'NULL'}"
        if operator in ("=", "in", "not-in"):
            listed = f"{made.add(_wanted(operator, value))}::text[]"
            found = f"""EXISTS (SELECT FROM jsonb_array_elements(coalesce({values}, '[]')) AS v
                WHERE v #>> '{{}}' = ANY({listed}) OR v ->> 'code' = ANY({listed}))"""
            return f"NOT ({found})" if operator == "not-in" else found
        return _compared(f"({values} ->> 0)", operator, value, made)

    async def _is_property(self, system: Canonical, name: str) -> bool:
        """Whether any concept says it, or the system declares it: a filter on another finds nothing by mistake."""
        declared = {each.get("code") for each in system.content.get("property", [])}
        return name in declared or bool(
            await self._pool.fetchval(
                "SELECT EXISTS (SELECT FROM concept WHERE system_id = $1 AND properties ? $2)", system.id, name
            )
        )


def _wanted(operator: str, value: str) -> list[str]:
    return [value] if operator == "=" else [each.strip() for each in value.split(",")]


def _compared(column: str, operator: str, value: str, made: _Made) -> str:
    """A text compared as a filter asks. Raises ExpansionError."""
    if operator == "regex":
        if len(value) > _LONGEST_REGEX or not _is_plain(value):
            raise ExpansionError("a regular expression that is not taken here: plain ones of 200 characters")
        return f"{column} ~ {made.add(f'^(?:{value})$')}::text"
    if operator not in ("=", "in", "not-in"):
        raise ExpansionError(f"the filter {operator[:20]} is not known here")
    found = f"{column} = ANY({made.add(_wanted(operator, value))}::text[])"
    return f"NOT ({found})" if operator == "not-in" else found


# By which a concept is for grouping alone (CodeSystem.property notSelectable, R4 4.8.7).
_ABSTRACT = """coalesce(c.properties @> '{"notSelectable": [true]}', false)"""
# No repetition of what repeats, no look around, no back reference: what could take for ever.
_HARD = re.compile(r"\\\d|\(\?|[*+}]\s*\)\s*[*+{?]|\)\s*[*+{]")


def _is_plain(pattern: str) -> bool:
    return not _HARD.search(pattern) and "\x00" not in pattern


def _flat(contained: Sequence[dict[str, Any]]) -> Any:
    for each in contained:
        if "code" in each:
            yield each
        yield from _flat(each.get("contains", []))
