"""The one engine that runs the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carefolio.hl7 import Segment
from carefolio.mapping.model import Context, Resource, Rule


def apply(rules: Sequence[Rule], segment: Segment, context: Context) -> None:
    """Fill the context's owner from one segment; a field that is empty or cannot be converted leaves no element.

    HL7's null is noted in the owner's ``erased``.
    """
    resource = context.owner.resource
    context.claim(segment, context.owner)
    for rule in rules:
        text = segment.field(rule.field)
        if not text:
            continue
        if text == '""':
            element = rule.element.split(".", 1)[0].removesuffix("[]")
            context.owner.erased.append(f"{element}/{rule.slot}" if rule.slot else element)
            continue
        many = rule.element.endswith("[]")
        for repetition in segment.repetitions(rule.field):
            value = rule.convert(repetition, context)
            if value is None:
                repetition.forget()
                continue
            put(resource, rule.element, value)
            path = f"{context.owner.type}.{rule.element}"
            context.mapped.rules.setdefault((id(segment), rule.field), (path, rule.convert.__name__))
            if not many:
                break


def put(resource: Resource, element: str, value: Any) -> None:
    """Set a dotted element; ``a.b[]`` appends to a list; what is already there is kept."""
    *parents, last = element.split(".")
    here = resource
    for parent in parents:
        if parent.endswith("[]"):
            items = here.setdefault(parent[:-2], [{}])
            here = items[0]
        else:
            here = here.setdefault(parent, {})
    if last.endswith("[]"):
        items = here.setdefault(last[:-2], [])
        if value not in items:
            items.append(value)
    else:
        here.setdefault(last, value)
