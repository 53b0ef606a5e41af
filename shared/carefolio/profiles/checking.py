"""Whether a resource meets profiles: everything of a profile, its bindings and invariants, and R4's own invariants."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.errors import FhirError
from carefolio.fhir.validation import Issue
from carefolio.profiles import invariants
from carefolio.profiles.trees import CORE, Definition, Node, ProfileError, named, tree
from carefolio.profiles.walking import ERROR, WARNING, Bound, Walk, extensions
from carefolio.terminology.asking import Coding, in_value_set
from carefolio.terminology.expansion import ExpansionError, ValueSets

INFORMATION = "information"
_MOST_DEFINITIONS = 500
Graded = tuple[str, Issue]


class Definitions:
    """Profiles as an organisation knows them, with all that they refer to; found in a few questions."""

    def __init__(
        self, pool: Pool | Connection, organisation: uuid.UUID | None, *, everybodys_first: bool = False
    ) -> None:
        self._pool = pool
        self._organisation = organisation
        self._everybodys_first = everybodys_first
        self._found: dict[str, Definition | None] = {}
        self._trees: dict[str, Node | None] = {}
        self.wrong: dict[str, str] = {}

    async def load(self, urls: Sequence[str]) -> None:
        """Find profiles, what they are based on, and what they refer to; where a version is named, that one."""
        found: list[str] = []
        wanted = {url.partition("|")[0]: url.partition("|")[2] for url in urls}
        while wanted and len(self._found) < _MOST_DEFINITIONS:
            found += await self._find(wanted)
            bases = {str(self._content(url).get("baseDefinition", "")) for url in found}
            wanted = self._missing(bases)
            if not wanted:
                wanted = self._missing({url for one in found if (node := self.tree(one)) for url in named(node)})

    def _missing(self, urls: Iterable[str]) -> dict[str, str]:
        split = {url.partition("|")[0]: url.partition("|")[2] for url in urls if url}
        return {url: version for url, version in split.items() if url not in self._found}

    async def _find(self, wanted: dict[str, str]) -> list[str]:
        mine = "organisation_id IS NOT NULL" if self._everybodys_first else "organisation_id IS NULL"
        rows = await self._pool.fetch(
            f"""
            SELECT DISTINCT ON (url) url, content, organisation_id IS NOT NULL AS posted
            FROM canonical JOIN unnest($1::text[], $2::text[]) AS wanted (name, edition) ON url = name
            WHERE kind = 'StructureDefinition' AND ready AND (edition = '' OR version = edition)
              AND (organisation_id IS NULL OR organisation_id = $3)
            ORDER BY url, {mine}, id DESC
            """,  # noqa: S608 - ours
            list(wanted),
            list(wanted.values()),
            self._organisation,
        )
        self._found |= dict.fromkeys(wanted)
        for row in rows:
            self._found[row["url"]] = json.loads(row["content"]) | ({"posted": True} if row["posted"] else {})
        return [row["url"] for row in rows]

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
    pool: Pool | Connection,
    organisation: uuid.UUID | None,
    resource: dict[str, Any],
    profiles: Sequence[str],
    *,
    everybodys_first: bool = False,
) -> list[Graded]:
    """What is wrong with a valid R4 resource by these profiles, and by R4's invariants; warnings and notes too.

    ``everybodys_first``: an organisation's own profile does not stand for one that everybody has.
    """
    kind = resource["resourceType"]
    found = list(extensions(resource, kind, kind))
    definitions = Definitions(pool, organisation, everybodys_first=everybodys_first)
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
            if node.unknown_base:
                reason = f"the profile {url[:200]} is based on {node.unknown_base[:200]}, which is not known here"
                made.append((WARNING, Issue("not-found", "", reason)))
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
                # A code's system is its element's; a Coding without one is none.
                plain_code = isinstance(each.value, str)
                asked = [one for one in codings if one.system or plain_code]
                verdict = await in_value_set(pool, organisation, definition, asked, any_system=plain_code)
                told[key] = verdict.result
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
        return [Coding(one["code"], one.get("system")) for one in value.get("coding", []) if one.get("code")]
    if "code" in value:
        return [Coding(str(value["code"]), value.get("system"))]
    return None


async def _invariants(resource: dict[str, Any], kind: str, walk: Walk) -> list[Graded]:
    of_r4 = list(invariants.own(resource, kind, kind))
    seen = {(each.path, each.key) for each in of_r4}
    ruled = of_r4 + [each for each in walk.ruled if (each.path, each.key) not in seen]
    told = await invariants.tell(resource, ruled)
    made: list[Graded] = []
    for each, holds in zip(ruled, told, strict=True):
        if holds is False:
            made.append((each.severity, Issue("invariant", each.path, f"{each.key}: {each.text[:300]}")))
        elif holds is None:
            reason = f"{each.key} was not evaluated: it is not known here, or takes too long"
            made.append((INFORMATION, Issue("not-supported", each.path, reason)))
    return made


async def meet(connection: Connection, organisation: uuid.UUID, resource: dict[str, Any]) -> None:
    """What a resource says of itself is so, as far as the profiles are known here. Raises FhirError (422)."""
    claimed = [each for each in resource.get("meta", {}).get("profile", []) if each]
    if claimed:
        found = await check(connection, organisation, resource, claimed, everybodys_first=True)
        if wrong := [issue for severity, issue in found if severity == ERROR]:
            raise FhirError(422, wrong)
