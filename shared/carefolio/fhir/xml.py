"""FHIR XML from and to the JSON form that everything else works with (R4 2.6.1, 2.6.2.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from carefolio.fhir.definitions import Element, elements, primitives, resource_types
from carefolio.fhir.errors import error
from carefolio.fhir.markup import XHTML, narrative_fault, plain_entities, tree
from carefolio.fhir.text import read_decimal

FHIR = "http://hl7.org/fhir"
_DEEPEST = 120
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,18})\Z")


def parse(document: bytes) -> dict[str, Any]:
    """A resource in XML as its JSON form. Raises FhirError for what is no FHIR XML, or says more than R4 knows."""
    root = _tree(document)
    kind = _local(root, FHIR)
    if kind not in resource_types():
        raise error(400, "structure", "the root is no resource type of FHIR R4")
    return _resource(root, kind, kind, 0)


def _tree(document: bytes) -> ElementTree.Element:
    try:
        return tree(document)
    except ValueError:
        raise error(400, "structure", "the body is no well-formed XML document, or has a document type") from None


def _local(node: ElementTree.Element, namespace: str) -> str:
    return node.tag.removeprefix(f"{{{namespace}}}") if node.tag.startswith(f"{{{namespace}}}") else ""


def _resource(node: ElementTree.Element, kind: str, path: str, depth: int) -> dict[str, Any]:
    return {"resourceType": kind, **_complex(node, kind, path, depth)}


def _complex(node: ElementTree.Element, kind: str, path: str, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise error(400, "too-long", f"nested more than {_DEEPEST} deep", path)
    known = elements(kind)
    made: dict[str, Any] = {}
    for name, value in node.attrib.items():
        # id of an element and url of an extension are XML attributes.
        if name not in ("id", "url") or name not in known:
            raise error(400, "structure", f"{kind} has no such attribute", path)
        made[name] = value
    if (node.text or "").strip() or any((child.tail or "").strip() for child in node):
        raise error(400, "structure", "text stands in the attribute value", path)
    # UK Core's own examples do not keep R4's order of elements, and it tells nothing: any is taken.
    for child in node:
        name = "div" if child.tag == f"{{{XHTML}}}div" else _local(child, FHIR)
        element = known.get(name)
        if element is None:
            raise error(400, "structure", f"{kind} has no such element", f"{path}.{name}" if name else path)
        value, beside = _value(child, element, f"{path}.{name}", depth + 1)
        _add(made, name, value, beside, element)
    # A list of which only extensions are there stands under its _name alone.
    return {
        name: value for name, value in made.items() if not isinstance(value, list) or value.count(None) < len(value)
    }


def _add(made: dict[str, Any], name: str, value: Any, beside: dict[str, Any] | None, element: Element) -> None:
    """One element into its object; ``beside`` are the id and extensions of a primitive."""
    if element.most == 1:
        if name in made or f"_{name}" in made:
            raise error(400, "structure", "an element twice that may be there once", name)
        if value is not None:
            made[name] = value
        if beside:
            made[f"_{name}"] = beside
        return
    values = made.setdefault(name, [])
    values.append(value)
    if beside or f"_{name}" in made:
        shadows = made.setdefault(f"_{name}", [])
        shadows += [None] * (len(values) - 1 - len(shadows)) + [beside]


def _value(node: ElementTree.Element, element: Element, path: str, depth: int) -> tuple[Any, dict[str, Any] | None]:
    kind = element.type
    if kind == "xhtml":
        return _div(node), None
    if kind in primitives():
        text = node.attrib.get("value")
        if (node.text or "").strip():
            raise error(400, "structure", "text stands in the attribute value", path)
        if text is None and not len(node):
            raise error(400, "structure", "ele-1: an element has a value or children", path)
        rest = ElementTree.Element(node.tag, {k: v for k, v in node.attrib.items() if k != "value"})
        rest.extend(list(node))
        return (None if text is None else _primitive(kind, text)), _complex(rest, "Element", path, depth) or None
    if kind == "Resource" or kind in resource_types():
        inner = list(node)
        of = _local(inner[0], FHIR) if len(inner) == 1 else ""
        if of not in resource_types():
            raise error(400, "structure", "one resource is needed", path)
        return _resource(inner[0], of, path, depth), None
    return _complex(node, kind, path, depth), None


def _primitive(kind: str, text: str) -> Any:
    """As JSON has it; what is no number or truth stays text, which the validator refuses by name."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind in ("integer", "unsignedInt", "positiveInt"):
        return int(text) if _WHOLE.match(text) else text
    if kind == "decimal":
        try:
            return read_decimal(text) if _DECIMAL.match(text) else text
        except ValueError:
            return text
    return text


def _div(node: ElementTree.Element) -> str:
    for each in node.iter():
        if isinstance(each.tag, str):
            each.tag = each.tag.removeprefix(f"{{{XHTML}}}")
    node.attrib = {"xmlns": XHTML, **node.attrib}
    node.tail = None
    return ElementTree.tostring(node, encoding="unicode")


def serialise(resource: dict[str, Any]) -> str:
    """A resource in XML, its elements in R4's order."""
    kind = resource["resourceType"]
    return f'<?xml version="1.0" encoding="UTF-8"?><{kind} xmlns="{FHIR}">{"".join(_children(resource, kind))}</{kind}>'


def _children(value: dict[str, Any], kind: str) -> Iterator[str]:
    resource = kind in resource_types()
    for name, element in elements(kind).items():
        content, beside = value.get(name), value.get(f"_{name}")
        if content is None and beside is None:
            continue
        if not resource and (name == "id" or (name == "url" and kind == "Extension")):
            continue
        if isinstance(content, list) or isinstance(beside, list):
            values, shadows = content or [], beside or []
            for at in range(max(len(values), len(shadows))):
                inner = values[at] if at < len(values) else None
                yield _element(name, element, inner, shadows[at] if at < len(shadows) else None)
        else:
            yield _element(name, element, content, beside)


def _element(name: str, element: Element, value: Any, beside: dict[str, Any] | None) -> str:
    kind = element.type
    if kind == "xhtml":
        if narrative_fault(value):
            return f'<div xmlns="{XHTML}">{escape(value)}</div>'
        return plain_entities(value)
    if kind in primitives():
        text = "" if value is None else f" value={_attribute(value)}"
        return _tagged(name, _attributes(beside or {}, "Element") + text, "".join(_children(beside or {}, "Element")))
    if kind == "Resource" or kind in resource_types():
        of = value["resourceType"]
        return f"<{name}><{of}>{''.join(_children(value, of))}</{of}></{name}>"
    return _tagged(name, _attributes(value, kind), "".join(_children(value, kind)))


def _tagged(name: str, attributes: str, inner: str) -> str:
    return f"<{name}{attributes}>{inner}</{name}>" if inner else f"<{name}{attributes}/>"


def _attributes(value: dict[str, Any], kind: str) -> str:
    names = ("id", "url") if kind == "Extension" else ("id",)
    return "".join(f" {name}={_attribute(value[name])}" for name in names if name in value)


def _attribute(value: Any) -> str:
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    return quoteattr(str(value), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
