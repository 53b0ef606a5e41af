"""Search parameters of a query as SQL (FHIR R4 3.1.1): terms, chains, ``_has``, ``_filter``, ``_list``."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.definitions import SearchParameter, compartment, resource_types, search_parameters
from carefolio.fhir.paths import compile_path
from carefolio.record import parameters
from carefolio.record.access import Reader, of_person, readable, resources
from carefolio.record.arguments import Arguments, SearchError, UnknownParameterError
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references, logical_id
from carefolio.record.places import key
from carefolio.record.search_filter import Comparison, Expression, compared, parse
from carefolio.record.search_terms import COMMON, condition, of_tokens, reference_of, split, unescape
from carefolio.terminology import asking
from carefolio.terminology.expansion import ExpansionError, ValueSets
from carefolio.terminology.store import find_posted

# Chains go through at most so many resources.
_MOST_LINKED = 10_000
_DEEPEST_CHAIN = 5
BY_MEANING = frozenset({"in", "not-in", "below", "above"})


class Conditions:
    """Turns parameters into predicates on ``resource``, for one reader; chains are resolved on the way."""

    def __init__(self, pool: Pool | Connection, reader: Reader) -> None:
        self._pool = pool
        self._reader = reader

    def arguments(self) -> Arguments:
        """Values of a new statement."""
        return Arguments(organisation_id=self._reader.organisation_id)

    async def of(
        self, kinds: Sequence[str], name: str, value: str, arguments: Arguments, depth: int = 0, operator: str = ""
    ) -> str:
        """The SQL of one parameter on resources of ``kinds``; ``operator`` is a filter's. Raises SearchError."""
        if depth > _DEEPEST_CHAIN:
            raise SearchError(name, f"a chain of more than {_DEEPEST_CHAIN}")
        if name.startswith("_has:"):
            return await self._has(kinds, name, value, arguments, depth, operator)
        if name == "_filter":
            return await self._filtered(kinds, parse(value), arguments, depth)
        if name == "_list":
            return await self._list(kinds, value, arguments)
        head, dot, _ = name.partition(".")
        made = []
        for kind in kinds:
            if dot:
                made.append(await self._chain(kind, name, value, arguments, depth, operator))
            elif name.partition(":")[2] in BY_MEANING:
                made.append(await self._by_meaning(kind, name, value, arguments))
            elif operator in ("", "eq", "re") and (patients := self._patients(kind, name, value, arguments)):
                made.append(patients)
            elif operator:
                made.append(compared(kind, name, operator, value, arguments))
            else:
                made.append(condition(kind, name, value, arguments))
            if head.partition(":")[0] in COMMON and not (name == "_id" and len(kinds) > 1):
                return made[0]
        if len(kinds) == 1:
            return made[0]
        return "(" + " OR ".join(f"(type = '{k}' AND {sql})" for k, sql in zip(kinds, made, strict=True)) + ")"

    async def _by_meaning(self, kind: str, name: str, value: str, arguments: Arguments) -> str:
        """A token by what its code means: ``:in`` and ``:not-in`` a value set, ``:below`` and ``:above`` a code."""
        code, _, modifier = name.partition(":")
        parameter = parameters.find(kind, code, self._reader.organisation_id)
        if parameter is not None and parameter.kind != "token":
            # Of a uri and a reference it is another question.
            return condition(kind, name, value, arguments)
        organisation = self._reader.organisation_id
        found: list[str] = []
        try:
            for each in split(value, ","):
                plain = unescape(each)
                if modifier in ("in", "not-in"):
                    listed = await asking.codes_of(self._pool, organisation, await self._value_set(name, plain))
                    found += [f"{system}|{one}" if system else one for system, one in listed]
                    continue
                system, bar, one = plain.rpartition("|")
                if not bar or not system:
                    raise SearchError(name, "system|code")
                above = modifier == "above"
                listed_codes = await asking.kinds_of(self._pool, organisation, system, one, above=above)
                found += [f"{system}|{each_code}" for each_code in listed_codes]
        except ExpansionError as failure:
            raise SearchError(name, str(failure)) from None
        return of_tokens(kind, name, found, arguments, negative=modifier == "not-in")

    async def _value_set(self, name: str, said: str) -> dict[str, Any]:
        """By its URL, or one of the organisation's own by ``ValueSet/id``."""
        organisation = self._reader.organisation_id
        if not said.startswith("ValueSet/"):
            return await ValueSets(self._pool, organisation).definition(said)
        number = internal_id("ValueSet", said.removeprefix("ValueSet/"))
        found = await find_posted(self._pool, "ValueSet", number, organisation)
        if found is None:
            raise SearchError(name, "no such ValueSet of this organisation's")
        return found.content

    def is_of_patients(self, kinds: Sequence[str], terms: Sequence[tuple[str, str]]) -> bool:
        """Whether a search is within the records of patients that it names."""
        unused = self.arguments()
        return len(kinds) == 1 and any(self._patients(kinds[0], name, value, unused) for name, value in terms)

    def _patients(self, kind: str, name: str, value: str, arguments: Arguments) -> str | None:
        """A search by the record's own patient goes by the record, and follows the person; None where it is none."""
        code, _, modifier = name.partition(":")
        if code not in ("patient", "subject") or kind == "Patient" or not compartment(kind):
            return None
        parameter = search_parameters(kind).get(code)
        if parameter is None or modifier not in ("", "Patient"):
            return None
        asked = [reference_of(part, modifier) for part in split(value, ",")]
        plain = [part.removeprefix("Patient/") for part in asked]
        if any("/" in part for part in plain) or not all(plain):
            return None
        if code == "subject" and not all(part.startswith("Patient/") for part in asked):
            return None
        keys = [key(code, f"Patient/{part}") for part in plain]
        # Hidden from the plan, which would be made anew for as many patients as are named.
        numbers = f"(SELECT {arguments.add([internal_id('Patient', part) for part in plain])}::uuid[])::uuid[]"
        own = arguments.found(f"keys && {arguments.typed(keys, 'bigint[]')}")
        # In records that were joined to it the element names their own Patient.
        records = of_person(numbers, self._reader, arguments.values)
        return f"(patient_id = ANY({records}) AND ({own} OR patient_id <> ALL({numbers})))"

    async def _chain(self, kind: str, name: str, value: str, arguments: Arguments, depth: int, operator: str) -> str:
        """``subject:Patient.name``: the resources whose reference points at one that matches the rest."""
        head, _, rest = name.partition(".")
        code, _, of = head.partition(":")
        parameter = parameters.find(kind, code, self._reader.organisation_id)
        if parameter is None or parameter.kind != "reference":
            raise UnknownParameterError(name, f"{code} is not a reference parameter of {kind}")
        targets = [target for target in self._targets(name, parameter, of, rest) if self._reader.may(target, "s")]
        if not targets:
            raise SearchError(name, "the token does not search what the chain goes through")
        keys: list[int] = []
        for target in targets:
            heads = await self._linked(target, rest, value, "left(content, 200)", depth, operator)
            keys += [key(parameter.code, f"{target}/{logical_id(head)}") for head in heads]
        arguments.selective = True
        return arguments.found(f"keys && {arguments.typed(keys, 'bigint[]')}")

    def _targets(self, name: str, parameter: SearchParameter, of: str, rest: str) -> list[str]:
        """The types that a chain may go through: the one that is named, else those that have the next parameter."""
        if of:
            if of not in resource_types():
                raise SearchError(name, f"{of} is no resource type")
            return [of]
        following = rest.partition(".")[0].partition(":")[0]
        listed = ["Patient"] if parameter.code == "patient" else parameter.targets or sorted(resource_types())
        fitting = [
            target
            for target in listed
            if following in COMMON
            or following == "_has"
            or parameters.find(target, following, self._reader.organisation_id)
        ]
        if not fitting:
            reason = f"{following} is not a search parameter of what {parameter.code} refers to"
            raise UnknownParameterError(name, reason)
        return fitting

    async def _has(
        self, kinds: Sequence[str], name: str, value: str, arguments: Arguments, depth: int, operator: str
    ) -> str:
        """``_has:Observation:patient:code``: the resources that one which matches refers to (R4 3.1.1.4.14)."""
        parts = name.split(":", 3)
        if len(parts) != 4 or parts[1] not in resource_types():
            raise SearchError(name, "_has:Type:reference:parameter")
        _, of, code, rest = parts
        if not self._reader.may(of, "s"):
            raise SearchError(name, f"the token does not search {of}")
        parameter = parameters.find(of, code, self._reader.organisation_id)
        if parameter is None or parameter.kind != "reference":
            raise SearchError(name, f"{code} is not a reference parameter of {of}")
        if list(kinds) == ["Patient"] and code in ("patient", "subject") and compartment(of):
            numbers = await self._linked(of, rest, value, "DISTINCT patient_id", depth, operator)
        else:
            select = compile_path(parameter.expression)
            numbers = [
                internal_id(kind, number)
                for content in await self._linked(of, rest, value, "content", depth, operator)
                for kind, number in local_references(select(orjson.loads(content)))
                if kind in kinds
            ]
        return f"id = ANY({arguments.add(numbers)}::uuid[])"

    async def _linked(self, kind: str, rest: str, value: str, column: str, depth: int, operator: str) -> list[Any]:
        """A column of the resources that a chain goes through."""
        inner = self.arguments()
        source = resources(self._reader, inner.values)
        conditions = [readable(self._reader, inner.values)]
        conditions.append(await self.of([kind], rest, value, inner, depth + 1, operator))
        conditions.append(inner.of_types([kind]))
        rows = await self._pool.fetch(
            f"SELECT {column} FROM {source} WHERE {' AND '.join(conditions)} LIMIT {_MOST_LINKED + 1}",  # noqa: S608
            *inner.values,
        )
        if len(rows) > _MOST_LINKED:
            raise SearchError(rest, f"the chain goes through more than {_MOST_LINKED} resources: narrow it")
        return [row[0] for row in rows]

    async def _filtered(self, kinds: Sequence[str], asked: Expression, arguments: Arguments, depth: int) -> str:
        """``_filter`` (R4 3.1.3)."""
        if isinstance(asked, Comparison):
            return await self.of(kinds, asked.name, asked.value, arguments, depth, asked.operator)
        before = arguments.selective
        parts = [await self._filtered(kinds, part, arguments, depth) for part in asked.parts]
        if asked.operator != "and":
            arguments.selective = before
        if asked.operator == "not":
            return f"NOT ({parts[0]})"
        return "(" + f" {asked.operator.upper()} ".join(parts) + ")"

    async def _list(self, kinds: Sequence[str], value: str, arguments: Arguments) -> str:
        """``_list=42``: what a List has in it (R4 3.1.1.4.17)."""
        if value.startswith("$"):
            raise SearchError("_list", "functional lists are not kept here; name a List")
        if not self._reader.may("List", "r"):
            raise SearchError("_list", "the token does not read List")
        inner = self.arguments()
        source = resources(self._reader, inner.values)
        number = internal_id("List", value.removeprefix("List/"))
        content = await self._pool.fetchval(
            f"SELECT content FROM {source} WHERE id = {inner.add(number)}"  # noqa: S608 - values are arguments
            f" AND {readable(self._reader, inner.values)}",
            *inner.values,
        )
        entries = orjson.loads(content).get("entry", []) if content else []
        items = [entry.get("item") for entry in entries if not entry.get("deleted")]
        numbers = [internal_id(kind, name) for kind, name in local_references(items) if kind in kinds]
        return f"id = ANY({arguments.add(list[uuid.UUID](numbers))}::uuid[])"
