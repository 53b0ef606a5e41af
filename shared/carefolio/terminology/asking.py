"""Questions about codes: what one means, whether it is in a value set, how two are related, what it is elsewhere."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.terminology.concepts import words_of
from carefolio.terminology.expansion import ExpansionError, ValueSets
from carefolio.terminology.resources import unmapped
from carefolio.terminology.store import Canonical, find

EQUIVALENT, SUBSUMES, SUBSUMED, UNRELATED = "equivalent", "subsumes", "subsumed-by", "not-subsumed"
_MOST_CODES = 20_000
_MOST_MATCHES = 100


@dataclass(frozen=True, slots=True)
class Meaning:
    """A concept in its system; ``parents`` and ``children`` are codes with their displays, a hundred at most."""

    system: Canonical
    code: str
    display: str
    active: bool
    names: list[tuple[str, str, str]]
    properties: dict[str, list[Any]]
    parents: list[tuple[str, str]]
    children: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a code is valid; ``reason`` says what is wrong, with the code or with its display."""

    result: bool
    display: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """What a code is in another system."""

    equivalence: str
    system: str
    code: str
    display: str
    source: str


@dataclass(slots=True)
class Coding:
    """What is asked about; the system may be unknown."""

    code: str
    system: str | None = None
    display: str = ""
    version: str = field(default="")


async def meaning(pool: Pool, system: Canonical, code: str) -> Meaning | None:
    """A code's concept in a system; None where it has none."""
    row = await pool.fetchrow(
        """
        SELECT c.*, ARRAY(
            SELECT ARRAY[up.code, up.display] FROM concept up WHERE up.system_id = $1 AND up.number = ANY(c.parents)
            LIMIT 100
        ) AS above_it, ARRAY(
            SELECT ARRAY[down.code, down.display] FROM concept down
            WHERE down.system_id = $1 AND down.above @> ARRAY[c.number] AND down.parents @> ARRAY[c.number] LIMIT 100
        ) AS below_it
        FROM concept c WHERE c.system_id = $1 AND c.code = $2
        """,
        system.id,
        code,
    )
    if row is None:
        return None
    return Meaning(
        system, code, row["display"], row["active"], [tuple(each) for each in json.loads(row["names"] or "[]")],
        json.loads(row["properties"] or "{}"), [tuple(each) for each in row["above_it"]],
        [tuple(each) for each in row["below_it"]],
    )  # fmt: skip


async def in_system(
    pool: Pool, organisation: uuid.UUID | None, asked: Coding, at: Canonical | None = None, *, selectable: bool = False
) -> Verdict:
    """Whether a code is one of its system's (``at``, where that is known), and its display one of its names."""
    if at is None and not asked.system:
        return Verdict(False, reason="the code system is not known")
    system = at or await find(pool, "CodeSystem", asked.system or "", organisation, asked.version)
    if system is None:
        return Verdict(False, reason="the code system is not loaded here")
    found = await meaning(pool, system, asked.code)
    if found is None:
        if system.content.get("content", "complete") == "complete":
            return Verdict(False, reason="not a code of the system")
        return Verdict(False, reason="not all of the code system is loaded here")
    if selectable and found.properties.get("notSelectable") == [True]:
        return Verdict(False, found.display, "a code for grouping alone")
    return _named(asked, found.display, [name for name, _, _ in found.names])


async def in_value_set(
    pool: Pool | Connection,
    organisation: uuid.UUID | None,
    value_set: dict[str, Any],
    asked: Sequence[Coding],
    *,
    selectable: bool = False,
    any_system: bool = False,
) -> Verdict:
    """Whether one of these codes is in a value set; ``any_system``: of a plain code the system does not matter.

    Raises ExpansionError.
    """
    sets = ValueSets(pool, organisation)
    wrong = Verdict(False, reason="not in the value set")
    for each in asked:
        found = await sets.expand(value_set, count=5, code=(each.system, each.code), selectable=selectable)
        if len({member.system for member in found.members}) > 1 and not any_system:
            wrong = Verdict(False, reason="the code is in the value set more than once: name its system")
        elif found.members:
            member = found.members[0]
            verdict = _named(each, member.display, [name for name, _, _ in member.names])
            if verdict.result:
                return verdict
            wrong = verdict
    return wrong


def _named(asked: Coding, display: str, names: Sequence[str]) -> Verdict:
    if asked.display and words_of(asked.display) not in [words_of(each) for each in (display, *names)]:
        return Verdict(False, display, "the display is none of the code's names")
    return Verdict(True, display)


async def relation(pool: Pool, system: Canonical, first: str, second: str) -> str | None:
    """How two codes are related (R4 CodeSystem $subsumes); None where one of them is not there."""
    rows = await pool.fetch(
        "SELECT code, number, above FROM concept WHERE system_id = $1 AND code = ANY($2)", system.id, [first, second]
    )
    by_code = {row["code"]: row for row in rows}
    if first not in by_code or second not in by_code:
        return None
    a, b = by_code[first], by_code[second]
    if a["number"] == b["number"]:
        return EQUIVALENT
    if a["number"] in b["above"]:
        return SUBSUMES
    return SUBSUMED if b["number"] in a["above"] else UNRELATED


@dataclass(frozen=True, slots=True)
class Wish:
    """Which maps: one (``at``, or by ``url``), or those between value sets; into which system; backwards."""

    at: Canonical | None = None
    url: str = ""
    source: str = ""
    target: str = ""
    target_system: str = ""
    reverse: bool = False


async def translations(pool: Pool, organisation: uuid.UUID | None, asked: Sequence[Coding], wish: Wish) -> list[Match]:
    """What codes are in another system (R4 ConceptMap $translate). Raises ExpansionError where a map is not there."""
    maps = await _maps(pool, organisation, wish)
    if wish.url and not maps:
        raise ExpansionError(f"the concept map {wish.url[:200]} is not known here", missing=True)
    own, other = ("target", "source") if wish.reverse else ("source", "target")
    made: dict[tuple[str, str, str], Match] = {}
    for each in asked:
        rows = await pool.fetch(
            f"""
            SELECT map_id, {other}_system AS system, {other}_code AS code, equivalence,
                   {"NULL" if wish.reverse else "target_display"} AS display
            FROM concept_map_element WHERE map_id = ANY($1) AND {own}_code = $2
              AND ($3::text IS NULL OR {own}_system = $3 OR {own}_system = '') AND ($4 = '' OR {other}_system = $4)
            ORDER BY map_id DESC LIMIT {_MOST_MATCHES}
            """,  # noqa: S608 - ours
            list(maps),
            each.code,
            each.system,
            wish.target_system,
        )
        for row in rows:
            said = _BACKWARDS.get(row["equivalence"], row["equivalence"]) if wish.reverse else row["equivalence"]
            match = Match(said, row["system"], row["code"], row["display"] or "", maps[row["map_id"]].url)
            made.setdefault((row["system"], row["code"], said), match)
        if not rows and not wish.reverse:
            for one in maps.values():
                for match in await _unmapped(pool, organisation, one, each, wish.target_system, 0):
                    made.setdefault((match.system, match.code, match.equivalence), match)
    return list(made.values())


# What a map says the other way round.
_BACKWARDS = {"wider": "narrower", "narrower": "wider", "subsumes": "specializes", "specializes": "subsumes"}
_MOST_MAPS = 5


async def _unmapped(
    pool: Pool, organisation: uuid.UUID | None, at: Canonical, asked: Coding, target_system: str, depth: int
) -> list[Match]:
    """What a map says of codes that it does not name (ConceptMap.group.unmapped)."""
    made = []
    for target, said in unmapped(at.content.get("group", []), asked.system or ""):
        mode = said.get("mode")
        if target_system and target != target_system:
            continue
        if mode == "provided":
            made.append(Match("inexact", target, asked.code, "", at.url))
        elif mode == "fixed":
            made.append(Match("inexact", target, said.get("code", ""), said.get("display", ""), at.url))
        elif mode == "other-map" and depth < _MOST_MAPS:
            wish = Wish(url=said.get("url", ""), target_system=target_system)
            other = await _maps(pool, organisation, wish) if wish.url else {}
            for found in other.values():
                made += await translations(pool, organisation, [asked], Wish(at=found, target_system=target_system))
                made += [] if made else await _unmapped(pool, organisation, found, asked, target_system, depth + 1)
    return made


async def _maps(pool: Pool, organisation: uuid.UUID | None, wish: Wish) -> dict[int, Canonical]:
    if wish.at is not None:
        return {wish.at.id: wish.at}
    if wish.url:
        found = await find(pool, "ConceptMap", wish.url, organisation)
        return {found.id: found} if found else {}
    first, last = ("target", "source") if wish.reverse else ("source", "target")
    rows = await pool.fetch(
        f"""
        SELECT DISTINCT ON (url) url FROM canonical
        WHERE kind = 'ConceptMap' AND ready AND (organisation_id IS NULL OR organisation_id = $1)
          AND ($2 = '' OR $2 IN (content ->> '{first}Uri', content ->> '{first}Canonical'))
          AND ($3 = '' OR $3 IN (content ->> '{last}Uri', content ->> '{last}Canonical'))
        ORDER BY url, organisation_id IS NULL, id DESC
        """,  # noqa: S608 - ours
        organisation,
        wish.source,
        wish.target,
    )
    made = {}
    for row in rows:
        found = await find(pool, "ConceptMap", row["url"], organisation)
        if found is not None:
            made[found.id] = found
    return made


async def codes_of(
    pool: Pool | Connection, organisation: uuid.UUID | None, value_set: dict[str, Any]
) -> list[tuple[str, str]]:
    """All of a value set, as (system, code), for a search. Raises ExpansionError, for one that is too large too."""
    found = await ValueSets(pool, organisation).expand(value_set, count=_MOST_CODES + 1)
    if len(found.members) > _MOST_CODES:
        raise ExpansionError(f"a search is by at most {_MOST_CODES} codes")
    return [(each.system, each.code) for each in found.members]


async def kinds_of(
    pool: Pool | Connection, organisation: uuid.UUID | None, system: str, code: str, *, above: bool
) -> list[str]:
    """A code, and all codes that are a kind of it (``above``: that it is a kind of). Raises ExpansionError."""
    found = await find(pool, "CodeSystem", system, organisation)
    if found is None or not found.concepts:
        raise ExpansionError(f"the code system {system[:200]} is not loaded here", missing=True)
    which = (
        "number = ANY(ARRAY(SELECT unnest(above) FROM asked))" if above else "above @> ARRAY(SELECT number FROM asked)"
    )
    rows = await pool.fetch(
        f"""
        WITH asked AS (SELECT number, above FROM concept WHERE system_id = $1 AND code = $2)
        SELECT code FROM concept WHERE system_id = $1 AND EXISTS (SELECT FROM asked) AND {which}
        LIMIT {_MOST_CODES + 1}
        """,  # noqa: S608 - ours
        found.id,
        code,
    )
    if len(rows) > _MOST_CODES:
        raise ExpansionError(f"a search is by at most {_MOST_CODES} codes")
    return [row["code"] for row in rows] or [code]
