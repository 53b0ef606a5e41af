"""FHIR's GraphQL, for reading (R4 3.3, http://hl7.org/fhir/R4/graphql.html): a query walks resources, references,
searches.

Each read and search is one of the reader's own, with his rule, scope and audit line. A query is bounded in its tokens,
depth, lookups and the size of what it gives, so that none costs more than a few searches do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from graphql import GraphQLError, parse
from graphql.language import ast

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.definitions import elements, primitives, resource_types
from carefolio.record import reading, search
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references

_TOKENS, _DEEPEST, _LOOKUPS, _PAGE = 2000, 20, 100, 200
# What a query may walk: a field each, and of what is read and given a character each.
_STEPS, _CHARACTERS = 100_000, 10_000_000
_DIRECTIVES = frozenset({"include", "skip", "first", "flatten", "singleton"})
_QUERY, _CONNECTION, _EDGE = "Query", "Connection", "Edge"
_MADE = {_CONNECTION: {"count": "", "pagesize": "", "next": "", "edges": _EDGE},
         _EDGE: {"mode": "", "resource": "Resource"}}  # fmt: skip


class _Item(NamedTuple):
    """A value, its type (empty for a primitive's), and the resource that it is in."""

    value: Any
    kind: str
    holder: Any


@dataclass(slots=True)
class Answer:
    """``data`` as far as it could be read, and what could not, as GraphQL tells it (each a message and where)."""

    data: dict[str, Any]
    errors: list[Any]


async def run(
    pool: Pool,
    reader: Reader,
    source: str,
    variables: Mapping[str, Any] | None = None,
    operation: str | None = None,
    of: tuple[str, str] | None = None,
) -> Answer | None:
    """What a query finds, from the top or of one resource (type, id); None where that is not to be read.

    Raises GraphQLError for a query that is none, asks for what there is not, or asks too much.
    """
    document = parse(source, max_lexical_tokens=_TOKENS, max_comments=_TOKENS)
    chosen = _operation(document, operation)
    walk = _Walk(pool, reader, _variables(chosen, variables or {}), {
        each.name.value: each for each in document.definitions if isinstance(each, ast.FragmentDefinitionNode)
    })  # fmt: skip
    top = _Item({}, _QUERY, None)
    if of is not None:
        found = await walk.read(*of, chosen)
        if found is None:
            return None
        top = found
    data: dict[str, Any] = {}
    await walk.select(top, [chosen.selection_set], data, many=False, depth=0)
    return Answer(data, [each.formatted for each in walk.errors])


def _operation(document: ast.DocumentNode, name: str | None) -> ast.OperationDefinitionNode:
    there = [each for each in document.definitions if isinstance(each, ast.OperationDefinitionNode)]
    if name is not None:
        there = [each for each in there if each.name is not None and each.name.value == name]
    if len(there) != 1:
        raise GraphQLError("the query is to have one operation, or operationName to name one of them")
    if there[0].operation is not ast.OperationType.QUERY:
        raise GraphQLError("GraphQL only reads here", there[0])
    return there[0]


def _variables(operation: ast.OperationDefinitionNode, given: Mapping[str, Any]) -> dict[str, str | None]:
    made: dict[str, str | None] = {}
    for each in operation.variable_definitions or ():
        name = each.variable.name.value
        value = given.get(name)
        if value is None and each.default_value is not None:
            made[name] = _scalar(each.default_value, {})
            continue
        if value is None and isinstance(each.type, ast.NonNullTypeNode):
            raise GraphQLError(f"the variable {name} is needed", each)
        if not isinstance(value, str | int | None):
            raise GraphQLError(f"the variable {name} is to be text, a whole number or a boolean", each)
        made[name] = (
            str(value).lower() if isinstance(value, bool) else None if value is None else _sound(str(value), each)
        )
    return made


def _sound(value: str, node: ast.Node) -> str:
    """Text that the database has: no NUL. Raises GraphQLError."""
    if "\x00" in value:
        raise GraphQLError("a value has a character that no text has", node)
    return value


def _scalar(node: ast.ValueNode, variables: Mapping[str, str | None]) -> str | None:
    """A value as a search takes it. Raises GraphQLError for one that is none."""
    if isinstance(node, ast.VariableNode):
        if node.name.value not in variables:
            raise GraphQLError(f"the variable {node.name.value} is not declared", node)
        return variables[node.name.value]
    if isinstance(node, ast.BooleanValueNode):
        return str(node.value).lower()
    if isinstance(node, ast.StringValueNode | ast.IntValueNode | ast.FloatValueNode | ast.EnumValueNode):
        return _sound(node.value, node)
    if isinstance(node, ast.NullValueNode):
        return None
    raise GraphQLError("a list or an object is not taken here", node)


@dataclass(slots=True)
class _Walk:
    """One query on its way, and what it has spent."""

    pool: Pool
    reader: Reader
    variables: Mapping[str, str | None]
    fragments: Mapping[str, ast.FragmentDefinitionNode]
    errors: list[GraphQLError] = field(default_factory=list)
    steps: int = 0
    characters: int = 0
    lookups: int = 0

    async def select(
        self, item: _Item, sets: list[ast.SelectionSetNode], out: dict[str, Any], *, many: bool, depth: int
    ) -> None:
        """The fields of ``item`` into ``out``; ``many``: beside those of others, of a flattened list."""
        if depth > _DEEPEST:
            raise GraphQLError(f"the query goes deeper than {_DEEPEST}", sets[0])
        fields: dict[str, list[ast.FieldNode]] = {}
        for each in sets:
            self._collect(each, item.kind, fields, set())
        for key, nodes in fields.items():
            node = nodes[0]
            self._spend(node)
            directives = {each.name.value for each in node.directives or ()}
            items, several = await self._field(item, node)
            if "first" in directives:
                items, several = items[:1], False
            several = several or many
            if "singleton" in directives:
                if len(items) > 1:
                    raise GraphQLError(f"{node.name.value} is no @singleton: there are several", node)
                several = False
            below = [each.selection_set for each in nodes if each.selection_set is not None]
            if "flatten" in directives:
                for each_item in items:
                    await self.select(each_item, _needed(below, node), out, many=several, depth=depth + 1)
                continue
            results = [await self._complete(each_item, below, node, depth) for each_item in items]
            if several:
                out.setdefault(key, []).extend(results)
            else:
                out[key] = results[0] if results else None

    async def _complete(self, item: _Item, below: list[ast.SelectionSetNode], node: ast.FieldNode, depth: int) -> Any:
        if item.kind:
            made: dict[str, Any] = {}
            await self.select(item, _needed(below, node), made, many=False, depth=depth + 1)
            return made
        if below:
            raise GraphQLError(f"{node.name.value} has no fields", node)
        self._spend(node, len(item.value) if isinstance(item.value, str) else 1)
        return item.value

    def _collect(
        self, chosen: ast.SelectionSetNode, kind: str, fields: dict[str, list[ast.FieldNode]], spread: set[str]
    ) -> None:
        """The fields by the name that they have in the answer (GraphQL 6.3.2); a fragment goes in once."""
        for each in chosen.selections:
            self._spend(each)
            if not self._is_wanted(each):
                continue
            if isinstance(each, ast.FieldNode):
                fields.setdefault((each.alias or each.name).value, []).append(each)
                continue
            fragment: ast.FragmentDefinitionNode | ast.InlineFragmentNode
            if isinstance(each, ast.FragmentSpreadNode):
                name = each.name.value
                if name not in self.fragments:
                    raise GraphQLError(f"there is no fragment {name}", each)
                if name in spread:
                    continue
                spread.add(name)
                fragment = self.fragments[name]
            else:
                assert isinstance(each, ast.InlineFragmentNode)
                fragment = each
            condition = fragment.type_condition.name.value if fragment.type_condition else kind
            if condition in (kind, "Resource") or (condition == "DomainResource" and kind in resource_types()):
                self._collect(fragment.selection_set, kind, fields, spread)

    def _is_wanted(self, node: ast.SelectionNode) -> bool:
        for each in node.directives or ():
            name = each.name.value
            if name not in _DIRECTIVES:
                raise GraphQLError(f"the directive @{name} is not known here", each)
            if name in ("skip", "include"):
                told = {a.name.value: _scalar(a.value, self.variables) for a in each.arguments or ()}
                if told.get("if") not in ("true", "false"):
                    raise GraphQLError(f"@{name} needs if, a boolean", each)
                if (told["if"] == "true") == (name == "skip"):
                    return False
        return True

    async def _field(self, item: _Item, node: ast.FieldNode) -> tuple[list[_Item], bool]:
        """What a field has, and whether it may be several."""
        name = node.name.value
        arguments = {each.name.value: _scalar(each.value, self.variables) for each in node.arguments or ()}
        if name == "__typename":
            return [_Item(item.kind, "", None)], False
        if (item.kind == _QUERY or item.kind in resource_types()) and name[:1].isupper():
            return await self._looked_up(item, name, arguments, node)
        if item.kind == "Reference" and name == "resource":
            found = await self._referred(item, arguments, node)
            return [found] if found else [], False
        if item.kind in _MADE:
            if name not in _MADE[item.kind]:
                raise GraphQLError(f"there is no {name} in {item.kind} here", node)
            value, kind, several = item.value[name], _MADE[item.kind][name], name == "edges"
        else:
            value, kind, several = _element(item, name, node)
        values = value if several else [value]
        kept = _chosen([each for each in values or () if each is not None], arguments, node)
        made = []
        for each in kept:
            is_resource = kind == "Resource"
            made.append(
                _Item(each, each["resourceType"] if is_resource else kind, each if is_resource else item.holder)
            )
        return made, several

    async def _looked_up(
        self, item: _Item, name: str, arguments: dict[str, str | None], node: ast.FieldNode
    ) -> tuple[list[_Item], bool]:
        """Type(id), TypeList and TypeConnection; in a resource, those that refer to it by ``_reference``."""
        if name in resource_types() and item.kind == _QUERY:
            if set(arguments) != {"id"} or not arguments["id"]:
                raise GraphQLError(f"{name} needs id, and nothing else", node)
            found = await self.read(name, arguments["id"], node)
            if found is None:
                self.errors.append(GraphQLError(f"no such {name}, or not for this reader", node))
            return [found] if found else [], False
        kind = name.removesuffix("List").removesuffix(_CONNECTION)
        if kind == name or kind not in resource_types():
            raise GraphQLError(f"there is no {name} in {item.kind}", node)
        query = [(each if each[:1] == "_" else each.replace("_", "-"), value)
                 for each, value in arguments.items() if value is not None and each != "_reference"]  # fmt: skip
        if item.kind != _QUERY:
            by = arguments.get("_reference")
            if not by:
                raise GraphQLError(f"{name} in a resource needs _reference, the parameter that refers to it", node)
            query.append((by.replace("_", "-"), f"{item.kind}/{item.value['id']}"))
        page = await self._search(kind, query, node)
        found_ = [self._parsed(each.content, node) for each in page.found if each.mode == "match"]
        if name.endswith("List"):
            return found_, True
        edges = [{"mode": "match", "resource": each.value} for each in found_]
        made = {"count": page.total, "pagesize": len(edges), "next": page.cursor, "edges": edges}
        return [_Item(made, _CONNECTION, None)], False

    async def _search(self, kind: str, query: list[tuple[str, str]], node: ast.Node) -> search.Page:
        self._look(node)
        if not self.reader.may(kind, "s"):
            self.errors.append(GraphQLError(f"{kind} is not in the scope", node))
            return search.Page()
        counts = [value for name, value in query if name == "_count"]
        if not counts:
            query = [*query, ("_count", str(search.DEFAULT_COUNT))]
        elif len(counts) > 1 or not counts[0].isascii() or not counts[0].isdigit() or int(counts[0][:9]) > _PAGE:
            raise GraphQLError(f"_count is a number up to {_PAGE}", node)
        try:
            return await search.search(self.pool, self.reader, [kind], query, strict=True)
        except SearchError as refused:
            raise GraphQLError(f"{kind}: {refused}", node) from None

    async def read(self, kind: str, number: str, node: ast.Node) -> _Item | None:
        """A resource; None where it is not there, or not to be read."""
        self._look(node)
        if not self.reader.may(kind, "r"):
            return None
        found = await reading.read(self.pool, self.reader, kind, internal_id(kind, number))
        return self._parsed(found.content, node) if found is not None and found.content is not None else None

    async def _referred(self, item: _Item, arguments: dict[str, str | None], node: ast.FieldNode) -> _Item | None:
        """What a reference names: here, or contained; an error where it is not found and is not ``optional``."""
        if unknown := set(arguments) - {"optional", "type"}:
            raise GraphQLError(f"resource has no {min(unknown)}", node)
        found: _Item | None = None
        reference = str(item.value.get("reference", ""))
        if reference.startswith("#"):
            for each in (item.holder or {}).get("contained", []):
                if each.get("id") == reference[1:]:
                    found = _Item(each, each["resourceType"], item.holder)
        else:
            for kind, number in local_references([reference]):
                if arguments.get("type") not in (None, kind):
                    return None
                found = await self.read(kind, number, node)
        if found is not None and arguments.get("type") not in (None, found.kind):
            return None
        if found is None and arguments.get("optional") != "true":
            self.errors.append(GraphQLError("what is referred to is not here, or not for this reader", node))
        return found

    def _parsed(self, content: str, node: ast.Node) -> _Item:
        self._spend(node, len(content))
        resource = text.loads(content)
        return _Item(resource, resource["resourceType"], resource)

    def _look(self, node: ast.Node) -> None:
        self.lookups += 1
        if self.lookups > _LOOKUPS:
            raise GraphQLError(f"the query needs more than {_LOOKUPS} reads and searches", node)

    def _spend(self, node: ast.Node, characters: int = 0) -> None:
        self.steps += 1
        self.characters += characters
        if self.steps > _STEPS or self.characters > _CHARACTERS:
            raise GraphQLError("the query asks for too much at once", node)


def _needed(below: list[ast.SelectionSetNode], node: ast.FieldNode) -> list[ast.SelectionSetNode]:
    if not below:
        raise GraphQLError(f"{node.name.value} needs a choice of its fields", node)
    return below


def _element(item: _Item, name: str, node: ast.FieldNode) -> tuple[Any, str, bool]:
    """An element's value, type (empty: it has no fields) and whether it is a list; ``_birthDate`` is what it adds."""
    there = elements(item.kind) if item.kind != _QUERY else {}
    plain = name.removeprefix("_")
    element = there.get(plain)
    is_primitive = element is not None and (element.type in primitives() or element.type == "xhtml")
    if element is None or (plain != name and not is_primitive):
        raise GraphQLError(f"there is no {name} in {item.kind}", node)
    kind = "Element" if plain != name else "" if is_primitive else element.type
    return item.value.get(name), kind, element.most != 1


def _chosen(values: list[Any], arguments: dict[str, str | None], node: ast.FieldNode) -> Iterator[Any]:
    """Those of a list whose elements are as asked, and of them a part by ``_offset`` and ``_count``."""
    bounds = {"_offset": 0, "_count": len(values)}
    for name in bounds:
        told = arguments.pop(name, None)
        if told is not None:
            if not told.isascii() or not told.isdigit():
                raise GraphQLError(f"{name} is a number", node)
            bounds[name] = int(told[:9])
    if arguments and not all(isinstance(each, dict) for each in values):
        raise GraphQLError(f"{node.name.value} takes no {min(arguments)}", node)
    if "fhirpath" in arguments:
        raise GraphQLError("fhirpath is not taken here", node)
    kept = [each for each in values if all(_text(each.get(name)) == value for name, value in arguments.items())]
    return iter(kept[bounds["_offset"] : bounds["_offset"] + bounds["_count"]])


def _text(value: Any) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
