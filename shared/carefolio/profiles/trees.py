"""Profiles as trees: what each says of an element, over what those say that it is based on.

Of a StructureDefinition its differential is read (else its snapshot), so that nobody has to make snapshots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

CORE = "http://hl7.org/fhir/StructureDefinition/"
_DEEPEST_CHAIN = 10
_MOST_ELEMENTS = 5000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}(\[x\])?\Z")
Definition = dict[str, Any]
Find = Callable[[str], Definition | None]


class ProfileError(Exception):
    """A StructureDefinition that cannot be used; the text names the element."""


@dataclass(slots=True)
class Node:
    """An element as profiles have it: its ``rule`` (ElementDefinition), invariants, slices and parts by name."""

    name: str
    rule: dict[str, Any] = field(default_factory=dict)
    constraints: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown_base: str = ""
    slices: dict[str, Node] = field(default_factory=dict)
    parts: dict[str, Node] = field(default_factory=dict)

    @property
    def profiles(self) -> list[str]:
        """Of which one has to be met by a value."""
        return [url for each in self.rule.get("type", []) for url in each.get("profile", [])]

    def value(self, stem: str) -> tuple[str, Any] | None:
        """``fixed[x]`` or ``pattern[x]``: the type's name and the value."""
        for name, value in self.rule.items():
            if name.startswith(stem) and name[len(stem) : len(stem) + 1].isupper():
                return name[len(stem) :], value
        return None


def tree(url: str, find: Find) -> Node:
    """All that a profile and those it is based on say, up to R4's own type. Raises ProfileError.

    A definition that is ``posted`` is an organisation's own, whose expressions are not trusted as far.
    """
    chain: list[Definition] = []
    at = url
    while (said := find(at)) is not None and said.get("derivation") == "constraint":
        chain.insert(0, said)
        if len(chain) > _DEEPEST_CHAIN:
            raise ProfileError(f"based on more than {_DEEPEST_CHAIN} others")
        at = str(said.get("baseDefinition", "")).partition("|")[0]
    if not chain:
        raise ProfileError("no profile (a StructureDefinition that constrains another)")
    root = Node(str(chain[-1].get("type", "")))
    if said is None and at != f"{CORE}{root.name}":
        root.unknown_base = at or "none"
    for said in chain:
        elements = (said.get("differential") or said.get("snapshot") or {}).get("element", [])
        if len(elements) > _MOST_ELEMENTS:
            raise ProfileError(f"more than {_MOST_ELEMENTS} elements")
        for element in elements:
            _add(root, element, posted=said.get("posted") is True)
    return root


def _add(root: Node, element: dict[str, Any], *, posted: bool) -> None:
    """Put an element's rule to its place; what a later profile says goes before what an earlier one said."""
    node = root
    for segment in _segments(element)[1:]:
        name, _, slices = segment.partition(":")
        node = node.parts.setdefault(name, Node(name))
        # A slice of a slice has its name after the other's: a/b.
        for each in slices.split("/") if slices else ():
            node = node.slices.setdefault(each, Node(name))
    node.rule |= {name: value for name, value in element.items() if name not in ("constraint", "id", "path")}
    for each in element.get("constraint", []):
        node.constraints[str(each.get("key", ""))] = each | ({"posted": True} if posted else {})


def _segments(element: dict[str, Any]) -> list[str]:
    said = str(element.get("id") or element.get("path", ""))
    path = str(element.get("path", ""))
    if said.count(".") != path.count("."):
        # An id may be anything; then the path and the slice's own name have to do.
        said = path + (f":{element['sliceName']}" if "sliceName" in element else "")
    segments = said.split(".")
    for segment, plain in zip(segments, path.split("."), strict=True):
        name = segment.partition(":")[0]
        if not _NAME.match(name) or not _NAME.match(plain):
            raise ProfileError(f"{path[:100]}: not a path")
    return segments


def named(node: Node) -> Iterable[str]:
    """The profiles that a tree refers to, to be found before it is used: of values, and of what is referred to."""
    todo = [node]
    while todo:
        each = todo.pop()
        for kind in each.rule.get("type", []):
            yield from kind.get("profile", [])
            yield from kind.get("targetProfile", [])
        todo += each.slices.values()
        todo += each.parts.values()


def plain(urls: Sequence[str]) -> list[str]:
    """Canonical URLs without their versions."""
    return [url.partition("|")[0] for url in urls]
