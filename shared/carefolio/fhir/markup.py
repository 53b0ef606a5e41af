"""XML that comes from outside, and the XHTML of narratives (R4 2.4.0)."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

XHTML = "http://www.w3.org/1999/xhtml"
_ENTITY = re.compile(r"&(?!amp;|lt;|gt;|quot;|apos;)[A-Za-z][A-Za-z0-9]*;")
_FORBIDDEN = frozenset(
    {"script", "style", "form", "iframe", "object", "embed", "base", "link", "head", "body", "input"}
)


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, *_: Any) -> None:
        """A document type brings entities, which may unfold without end; FHIR has no use for them (R4 2.6.1)."""
        raise ValueError("a document type is not taken")


def tree(document: bytes | str) -> ElementTree.Element:
    """An XML document. Raises ValueError for what is none, or has a document type."""
    try:
        return ElementTree.fromstring(document, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - see _Builder
    except (ElementTree.ParseError, LookupError, RecursionError) as wrong:
        raise ValueError("not well-formed XML") from wrong


def plain_entities(div: str) -> str:
    """A narrative in which HTML's named characters (&nbsp;) stand as they are: XML does not know the names."""
    return _ENTITY.sub(lambda match: escape(unescape(match.group())), div)


def narrative_fault(div: str) -> str:
    """What is wrong with a narrative (R4 2.4.0, txt-1); empty where nothing is."""
    if any(unescape(name) == name for name in _ENTITY.findall(div)):
        return "a character of no known name"
    try:
        root = tree(plain_entities(div))
    except ValueError:
        return "not well-formed XHTML"
    if root.tag != f"{{{XHTML}}}div":
        return "the root is a div of XHTML's namespace"
    for each in root.iter():
        if each.tag.rpartition("}")[2].lower() in _FORBIDDEN:
            return "txt-1: an element that a narrative may not have"
        for name, value in each.attrib.items():
            if name.lower().startswith("on") or "javascript:" in value.lower():
                return "txt-1: active content"
    return ""
