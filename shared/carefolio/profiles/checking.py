"""Whether a resource meets profiles: everything of a profile, its bindings and invariants, and R4's own invariants."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.validation import Issue
from carefolio.profiles import invariants
from carefolio.profiles.trees import CORE, Definition, Node, ProfileError, named, plain, tree
from carefolio.profiles.walking import ERROR, WARNING, Bound, Walk, extensions
from carefolio.terminology.asking import Coding, in_value_set
from carefolio.terminology.expansion import ExpansionError, ValueSets

INFORMATION = "information"
_MOST_DEFINITIONS = 500
Graded = tuple[str, Issue]


class Definitions:
    """Profiles as an organisation knows them, with all that they refer to; found in a few questions."""

    def __init__(self, pool: Pool | Connection, organisation: uuid.UUID | None) -> None:
        self._pool = pool
        self._organisation = organisation
        self._found: dict[str, Definition | None] = {}
        self._trees: dict[str, Node | None] = {}
        self.wrong: dict[str, str] = {}

    async def load(self, urls: Sequence[str]) -> None:
        """Find profiles, what they are based on, and what they refer to."""
        wanted = {url for url in plain(urls) if url not in self._found}
        while wanted and len(self._found) < _MOST_DEFINITIONS:
            rows = await self._pool.fetch(
                """
                SELECT DISTINCT ON (url) url, content FROM canonical
                WHERE kind = 'StructureDefinition' AND url = ANY($1) AND ready
                  AND (organisation_id IS NULL OR organisation_id = $2)
                ORDER BY url, organisation_id IS NULL, id DESC
                """,
                list(wanted),
                self._organisation,
            )
            self._found |= dict.fromkeys(wanted) | {row["url"]: json.loads(row["content"]) for row in rows}
            bases = {str(self._content(row["url"]).get("baseDefinition", "")).partition("|")[0] for row in rows}
            wanted = {url for url in bases if url and url not in self._found}
            if not wanted:
                referred = {url for row in rows if (found := self.tree(row["url"])) for url in plain([*named(found)])}
                wanted = {url for url in referred if url not in self._found}

    def _content(self, url: str) -> Definition:
        return self._found.get(url) or {}

    def tree(self, url: str) -> Node | None:
        """A profile's tree; None where it is not known, or cannot be used (``wrong`` says why)."""
        url = url.partition("|")[0]
        if url not in self._trees:
            self._trees[url] = None
            if self._found.get(url) is not None:
                try:
                    self._trees[url] = tree(url, self._found.get)
                except (ProfileError, KeyError, TypeError, AttributeError, ValueError) as error:
                    reason = str(error) if isinstance(error, ProfileError) else "it is no StructureDefinition"
                    self.wrong[url] = reason
        return self._trees[url]

    def kind_of(self, url: str) -> str | None:
        """The type that a profile is of."""
        found = self._found.get(url.partition("|")[0])
        return str(found.get("type")) if found else None


async def check(
    pool: Pool | Connection, organisation: uuid.UUID | None, resource: dict[str, Any], profiles: Sequence[str]
) -> list[Graded]:
    """What is wrong with a valid R4 resource by these profiles, and by R4's invariants; warnings and notes too."""
    kind = resource["resourceType"]
    found = list(extensions(resource, kind, kind))
    definitions = Definitions(pool, organisation)
    await definitions.load([*profiles, *(url for _, url, _ in found if url.startswith("http"))])
    walk = Walk(definitions.tree, definitions.kind_of)
    made: list[Graded] = []
    for url in profiles:
        if url == f"{CORE}{kind}":
            continue
        node = definitions.tree(url)
        if node is None:
            reason = definitions.wrong.get(url.partition("|")[0], "it is not known here")
            made.append((WARNING, Issue("not-found", "", f"the profile {url[:200]} was not checked: {reason}")))
        elif node.name != kind:
            made.append((ERROR, Issue("structure", kind, f"the profile {url[:200]} is of {node.name[:60]}")))
        else:
            walk.check(resource, node, kind, kind)
    for path, url, value in found:
        if (node := definitions.tree(url)) is not None and node.name == "Extension":
            walk.check(value, node, "Extension", path)
    made += walk.issues
    made += [
        (INFORMATION, Issue("not-found", "", f"the profile {url[:200]} of a part is not known here"))
        for url in walk.unknown
    ]
    made += await _bindings(pool, organisation, walk.bound)
    made += await _invariants(resource, kind, walk)
    return list(dict.fromkeys(made))


async def _bindings(pool: Pool | Connection, organisation: uuid.UUID | None, bound: Sequence[Bound]) -> list[Graded]:
    sets = ValueSets(pool, organisation)
    told: dict[tuple[str, str], bool | None] = {}
    made: list[Graded] = []
    for each in bound:
        codings = _codings(each.value)
        if codings is None:
            continue
        key = (each.value_set, json.dumps([[one.system, one.code] for one in codings]))
        if key not in told:
            try:
                definition = await sets.definition(each.value_set)
                told[key] = bool(codings) and (await in_value_set(pool, organisation, definition, codings)).result
            except ExpansionError as error:
                told[key] = None
                reason = f"not checked against {each.value_set[:200]}: {error}"
                made.append((INFORMATION, Issue("not-supported", each.path, reason)))
        if told[key] is False and (codings or each.strength == "required"):
            required = each.strength == "required"
            reason = f"not of the value set {each.value_set[:200]}" + (
                "" if required else ", which is to be used where it fits"
            )
            made.append((ERROR if required else WARNING, Issue("code-invalid", each.path, reason)))
    return made


def _codings(value: Any) -> list[Coding] | None:
    """The codes of a bound value; None where it has another type, or says nothing but an extension."""
    if isinstance(value, str):
        return [Coding(value)]
    if not isinstance(value, dict):
        return None
    if "coding" in value or "text" in value:
        return [Coding(one["code"], one.get("system")) for one in value.get("coding", []) if "code" in one]
    if "code" in value:
        return [Coding(str(value["code"]), value.get("system"))]
    return None


async def _invariants(resource: dict[str, Any], kind: str, walk: Walk) -> list[Graded]:
    of_r4 = list(invariants.own(resource, kind, kind))
    seen = {(each.path, each.key) for each in of_r4}
    ruled = of_r4 + [each for each in walk.ruled if (each.path, each.key) not in seen]
    told = await invariants.tell(resource, ruled)
    if told is None:
        return [
            (WARNING, Issue("too-costly", kind, "the invariants were not checked: they are too many, or take too long"))
        ]
    made: list[Graded] = []
    for each, holds in zip(ruled, told, strict=True):
        if holds is False:
            made.append((each.severity, Issue("invariant", each.path, f"{each.key}: {each.text[:300]}")))
        elif holds is None:
            reason = f"{each.key} is not evaluated here"
            made.append((INFORMATION, Issue("not-supported", each.path, reason)))
    return made
