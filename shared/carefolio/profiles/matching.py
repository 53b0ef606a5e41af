"""Whether a value is what a profile says: fixed, of a pattern, below another, of a slice by its discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from carefolio.profiles.trees import Node


def steps_of(path: str) -> list[str] | None:
    """A discriminator's path as names; None for one that is no plain path."""
    if path == "$this":
        return []
    names = path.removeprefix("$this.").split(".")
    return names if all(name.isalnum() for name in names) else None


def reached(values: Sequence[Any], steps: Sequence[str]) -> list[Any]:
    """What is at a path of names below each of some values."""
    found = list(values)
    for name in steps:
        inner: list[Any] = []
        for each in found:
            if not isinstance(each, dict):
                continue
            # A choice element is named without its type.
            said = [value for key, value in each.items() if key == name or _is_choice(key, name)]
            for value in said:
                inner += value if isinstance(value, list) else [value]
        found = inner
    return found


def _is_choice(key: str, name: str) -> bool:
    return key.startswith(name) and key[len(name) : len(name) + 1].isupper()


def node_at(node: Node, steps: Sequence[str]) -> Node | None:
    """What a profile says of a path of names below an element; None where it says nothing."""
    at: Node | None = node
    for name in steps:
        at = at.parts.get(name) or at.parts.get(f"{name}[x]") if at else None
    return at


def told_by_values(value: Any, one: Node, steps: Sequence[str]) -> bool | None:
    """Whether what a slice fixes on the way to its discriminator is there; None where it fixes nothing."""
    told: list[bool] = []
    at: Node | None = one
    values = [value]
    for step in [*steps, ""]:
        if at is None:
            break
        if fixed := at.value("fixed"):
            told.append(any(same(each, fixed[1]) for each in values))
        elif pattern := at.value("pattern"):
            told.append(any(fits(each, pattern[1]) for each in values))
        if step:
            values = reached(values, [step])
            at = at.parts.get(step) or at.parts.get(f"{step}[x]")
    return all(told) if told else None


def before(value: Any, other: Any) -> bool:
    """Whether a value is less than another; of quantities, where they are in one unit."""
    if isinstance(value, dict) and isinstance(other, dict):
        alike = all(value.get(name) == other.get(name) for name in ("system", "code", "unit"))
        return alike and before(value.get("value"), other.get("value"))
    if isinstance(value, bool) or isinstance(other, bool):
        return False
    if isinstance(value, int | float | Decimal) and isinstance(other, int | float | Decimal):
        return Decimal(str(value)) < Decimal(str(other))
    # Dates and times of one length are in the order of their letters.
    return isinstance(value, str) and isinstance(other, str) and value[: len(other)] < other[: len(value)]


def same(value: Any, wanted: Any) -> bool:
    """Exactly the same."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        return value.keys() == wanted.keys() and all(same(value[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list) and isinstance(value, list):
        return len(value) == len(wanted) and all(same(a, b) for a, b in zip(value, wanted, strict=True))
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    if isinstance(wanted, int | float | Decimal) and isinstance(value, int | float | Decimal):
        return Decimal(str(value)) == Decimal(str(wanted))
    return bool(value == wanted)


def fits(value: Any, wanted: Any) -> bool:
    """At least what a pattern has; of a list each of the pattern's items fits some item."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(fits(item, each) for item in value) for each in wanted)
    return same(value, wanted)
