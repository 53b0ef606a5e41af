"""A resource is walked along a profile's tree: cardinalities, slices, fixed values, types, references, extensions.

What needs a terminology or FHIRPath is gathered on the way, to be asked for afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from carefolio.fhir.definitions import elements, resource_types
from carefolio.fhir.validation import Issue
from carefolio.profiles import matching
from carefolio.profiles.trees import CORE, Node

ERROR, WARNING = "error", "warning"
_MOST_ISSUES = 100
_DEEPEST = 40
_MOST_STEPS = 50_000


@dataclass(frozen=True, slots=True)
class Bound:
    """A value that has to be, or should be, of a value set: ``strength`` as FHIR has it."""

    path: str
    strength: str
    value_set: str
    value: Any


@dataclass(frozen=True, slots=True)
class Ruled:
    """An invariant on a value; ``base`` is the type that the value is of."""

    path: str
    base: str
    key: str
    severity: str
    text: str
    expression: str
    posted: bool = False


@dataclass(slots=True)
class Walk:
    """``profile`` finds a profile's tree, ``kind_of`` the type that it is of; None where it is not known."""

    profile: Callable[[str], Node | None]
    kind_of: Callable[[str], str | None]
    issues: list[tuple[str, Issue]] = field(default_factory=list)
    bound: list[Bound] = field(default_factory=list)
    ruled: list[Ruled] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)
    _steps: int = 0

    def _say(self, severity: str, code: str, path: str, text: str) -> None:
        """Errors and notes have each their limit: what is only noted hides nothing that is wrong."""
        one = severity, Issue(code, path, text)
        alike = sum(1 for each, _ in self.issues if each == severity)
        if alike < _MOST_ISSUES and (severity == ERROR or one not in self.issues):
            self.issues.append(one)

    def check(self, value: Any, node: Node, kind: str, path: str, depth: int = 0) -> None:
        """One value of a type against an element of a profile."""
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            if self._steps == _MOST_STEPS + 1 or depth > _DEEPEST:
                self._say(WARNING, "too-costly", path, "not checked any further: too much, or too deep")
            return
        self._check_value(value, node, path)
        self._check_binding(value, node, path)
        for key, each in node.constraints.items():
            if "expression" in each:
                severity = ERROR if each.get("severity") == "error" else WARNING
                posted = each.get("posted") is True
                said = str(each.get("human", ""))
                self.ruled.append(Ruled(path, kind, key, severity, said, str(each["expression"]), posted))
        if kind == "Reference":
            self._check_target(value, node, path)
        if isinstance(value, dict):
            self._check_profiles(value, node, kind, path, depth)
            self._parts(value, node.parts, kind, path, depth)

    def _parts(self, value: dict[str, Any], parts: dict[str, Node], kind: str, path: str, depth: int) -> None:
        for name, node in parts.items():
            items = list(_items(value, name, kind, path))
            self._count(len(items), node, _joined(path, name))
            if node.slices:
                self._slice(items, node, _joined(path, name), depth)
            for item in items:
                self._check_type(item, node)
                self._check_item(item, node, depth + 1)

    def _check_item(self, item: Item, node: Node, depth: int) -> None:
        """A value; of a primitive its extensions too, which stand beside it."""
        self.check(item.value, node, item.kind, item.path, depth)
        if item.beside is not item.value and node.parts:
            self._parts(item.beside or {}, node.parts, "Element", item.path, depth)

    def _count(self, number: int, node: Node, path: str, of: str = "") -> None:
        least, most = node.rule.get("min", 0), str(node.rule.get("max", "*"))
        which = f" of slice {of}" if of else ""
        if number < least:
            self._say(ERROR, "required", path, f"at least {least}{which} needed, {number} there")
        if most.isdigit() and number > int(most):
            self._say(ERROR, "structure", path, f"at most {most}{which} allowed, {number} there")

    def _slice(self, items: Sequence[Item], node: Node, path: str, depth: int) -> None:
        slicing = node.rule.get("slicing", {})
        found: dict[str, int] = dict.fromkeys(node.slices, 0)
        within: dict[str, list[Item]] = {name: [] for name in node.slices}
        undecided = set()
        for item in items:
            matched = False
            for name, one in node.slices.items():
                belongs = self._belongs(item, one, slicing, node)
                if belongs is None:
                    undecided.add(name)
                elif belongs:
                    matched = True
                    found[name] += 1
                    within[name].append(item)
                    self._check_item(item, one, depth + 1)
                    break
            if not matched and slicing.get("rules") == "closed" and not undecided:
                self._say(ERROR, "structure", item.path, "belongs to none of the slices, and others are not allowed")
        for name, number in found.items():
            if name in undecided:
                self._say(
                    "information", "not-supported", path, f"whether something is of slice {name} is not decided here"
                )
            else:
                self._count(number, node.slices[name], path, name)
                if node.slices[name].slices:
                    self._slice(within[name], node.slices[name], path, depth)

    def _belongs(self, item: Item, one: Node, slicing: dict[str, Any], whole: Node) -> bool | None:
        """Whether a value is of a slice; None where that is not decided here."""
        if whole.name in ("extension", "modifierExtension"):
            url = next(iter(one.profiles), "").partition("|")[0] or _fixed_url(one)
            return isinstance(item.value, dict) and item.value.get("url") == url
        told = [self._discriminated(item, one, each) for each in slicing.get("discriminator", [])]
        if not told and whole.name.endswith("[x]"):
            return item.kind in _kinds(one, item)
        if any(each is False for each in told):
            return False
        return True if told and all(told) else None

    def _discriminated(self, item: Item, one: Node, said: dict[str, Any]) -> bool | None:
        kind, path = said.get("type"), str(said.get("path", ""))
        if kind == "type":
            return item.kind in _kinds(one, item) if path == "$this" else None
        steps = matching.steps_of(path)
        if steps is None:
            return None
        values = matching.reached([item.value], steps)
        if kind == "exists":
            node = matching.node_at(one, steps)
            if node is None:
                return None
            return bool(values) == (str(node.rule.get("max", "1")) != "0")
        if kind not in ("value", "pattern"):
            return None
        return matching.told_by_values(item.value, one, steps)

    def _check_value(self, value: Any, node: Node, path: str) -> None:
        if fixed := node.value("fixed"):
            if not matching.same(value, fixed[1]):
                self._say(ERROR, "value", path, "not the value that the profile fixes")
        elif (pattern := node.value("pattern")) and not matching.fits(value, pattern[1]):
            self._say(ERROR, "value", path, "not what the profile's pattern asks for")
        longest = node.rule.get("maxLength")
        if isinstance(longest, int) and isinstance(value, str) and len(value) > longest:
            self._say(ERROR, "too-long", path, f"longer than {longest} characters")
        least, most = node.value("minValue"), node.value("maxValue")
        if least and matching.before(value, least[1]):
            self._say(ERROR, "value", path, "less than the profile's minValue")
        if most and matching.before(most[1], value):
            self._say(ERROR, "value", path, "more than the profile's maxValue")

    def _check_binding(self, value: Any, node: Node, path: str) -> None:
        binding = node.rule.get("binding")
        if (
            isinstance(binding, dict)
            and binding.get("valueSet")
            and binding.get("strength") in ("required", "extensible")
        ):
            self.bound.append(Bound(path, binding["strength"], binding["valueSet"], value))

    def _check_type(self, item: Item, node: Node) -> None:
        kinds = [str(each.get("code", "")).rpartition("/")[2] for each in node.rule.get("type", [])]
        is_open = node.name.endswith("[x]") or item.kind in resource_types()
        if not kinds or not is_open or not item.kind or "Resource" in kinds or "DomainResource" in kinds:
            return
        if item.kind not in kinds:
            self._say(ERROR, "structure", item.path, f"{item.kind} is none of the types that the profile allows here")

    def _check_target(self, value: Any, node: Node, path: str) -> None:
        """A reference to one of the types that the profile names; what cannot be told is let pass."""
        targets = [url for each in node.rule.get("type", []) for url in each.get("targetProfile", [])]
        if not targets or not isinstance(value, dict):
            return
        said = str(value.get("reference", ""))
        kind = said.rpartition("/")[0].rpartition("/")[2] if "/" in said else str(value.get("type", ""))
        allowed = {self._kind(url) for url in targets}
        if kind in resource_types() and None not in allowed and "Resource" not in allowed and kind not in allowed:
            names = ", ".join(sorted(each for each in allowed if each))
            self._say(ERROR, "value", path, f"a reference to {kind}; the profile allows {names}")

    def _kind(self, url: str) -> str | None:
        url = url.partition("|")[0]
        last = url.removeprefix(CORE)
        return last if url.startswith(CORE) and last in {*resource_types(), "Resource"} else self.kind_of(url)

    def _check_profiles(self, value: dict[str, Any], node: Node, kind: str, path: str, depth: int) -> None:
        """What a value's type has to be a profile of: one of those that are named."""
        of_kind = [each for each in node.rule.get("type", []) if str(each.get("code", "")).rpartition("/")[2] == kind]
        if kind == "Extension" and isinstance(value.get("url"), str):
            # Wherever an extension stands, its own definition counts; and it counts once.
            return
        if any(not each.get("profile") for each in of_kind):
            return
        urls = [url.partition("|")[0] for each in of_kind for url in each["profile"]]
        trees = {url: self.profile(url) for url in urls if not url.startswith(CORE) or url.removeprefix(CORE) != kind}
        self.unknown |= dict.fromkeys(url for url, found in trees.items() if found is None)
        known = [found for found in trees.values() if found is not None]
        if not known or len(known) < len(trees):
            return
        tried = []
        for found in known:
            one = Walk(self.profile, self.kind_of, _steps=self._steps)
            one.check(value, found, kind, path, depth + 1)
            self._steps = one._steps
            if not any(severity == ERROR for severity, _ in one.issues):
                tried = [one]
                break
            tried.append(one)
        best = tried[0] if len(known) == 1 or len(tried) == 1 else None
        if best is None:
            self._say(ERROR, "structure", path, "meets none of the profiles of which it has to meet one")
            return
        for severity, issue in best.issues:
            self._say(severity, issue.code, issue.expression, issue.text)
        self.bound += best.bound
        self.ruled += best.ruled
        self.unknown |= best.unknown


@dataclass(frozen=True, slots=True)
class Item:
    """A value of an element: of which type, and where; ``beside`` it a primitive's extensions."""

    value: Any
    kind: str
    path: str
    beside: Any = None


def extensions(value: Any, path: str, kind: str, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """All extensions in a value: (path, url, extension), those of primitives too."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from extensions(item, f"{path}[{number}]", kind, depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            here = f"{path}.{name.removeprefix('_')}"
            if name in ("extension", "modifierExtension") and isinstance(inner, list):
                for number, one in enumerate(inner):
                    if isinstance(one, dict) and isinstance(one.get("url"), str):
                        yield f"{here}[{number}]", one["url"], one
                        yield from extensions(one, f"{here}[{number}]", "Extension", depth + 1)
            elif isinstance(inner, dict | list):
                yield from extensions(inner, here, kind, depth + 1)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name.removesuffix('[x]')}"


def _items(value: dict[str, Any], name: str, kind: str, path: str) -> Iterator[Item]:
    """The values of an element in an object of a type."""
    known = _elements(kind)
    stem = name.removesuffix("[x]")
    names = [name] if stem == name else [each for each, element in known.items() if element.choice == stem]
    for each in names:
        inner, beside = value.get(each), value.get(f"_{each}")
        if inner is None and beside is None:
            continue
        of = known[each].type if each in known else ""
        if isinstance(inner, list) or isinstance(beside, list):
            listed = inner if isinstance(inner, list) else [None] * len(beside or [])
            others = beside if isinstance(beside, list) else [None] * len(listed)
            for number, one in enumerate(listed):
                other = others[number] if number < len(others) else None
                here = f"{path}.{each}[{number}]"
                yield Item(one if one is not None else other, _resource_kind(one, of), here, _beside(one, other))
        else:
            value_there = inner if inner is not None else beside
            yield Item(value_there, _resource_kind(inner, of), f"{path}.{each}", _beside(inner, beside))


def _beside(value: Any, other: Any) -> Any:
    """What a primitive's parts are looked for in; of an object it is the object."""
    return value if isinstance(value, dict) else other


def _resource_kind(value: Any, of: str) -> str:
    return str(value.get("resourceType", of)) if of == "Resource" and isinstance(value, dict) else of


def _elements(kind: str) -> dict[str, Any]:
    try:
        return dict(elements(kind))
    except KeyError:
        return {}


def _fixed_url(one: Node) -> str:
    """The url of an extension that a profile defines in place."""
    url = one.parts.get("url")
    fixed = url.value("fixed") if url else None
    return str(fixed[1]) if fixed else ""


def _kinds(one: Node, item: Item) -> list[str]:
    """The types of a slice: those it names, or the one that its own name says (valueQuantity)."""
    named = [str(each.get("code", "")).rpartition("/")[2] for each in one.rule.get("type", [])]
    slice_name = str(one.rule.get("sliceName", ""))
    return named or ([item.kind] if slice_name.lower().endswith(item.kind.lower()) and item.kind else [])
