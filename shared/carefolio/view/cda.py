"""A CDA document as plain text: what its sections say, without its styles, links, scripts and pictures (HL7 CDA R2).

Its narrative is markup of its own; shown as text nothing in it can do harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from carefolio.fhir.markup import tree

_NS = "{urn:hl7-org:v3}"
_LONGEST = 200_000
_BLOCKS = frozenset({"paragraph", "item", "tr", "caption", "br", "table", "list", "title", "text"})


def is_cda(media: str, content: bytes) -> bool:
    """Whether a file is a CDA document."""
    return "xml" in media and b"ClinicalDocument" in content[:4000] and b"urn:hl7-org:v3" in content[:4000]


def plain_text(content: bytes) -> str:
    """Titles and narratives in their order; empty where the document cannot be read."""
    try:
        root = tree(content)
    except (ValueError, LookupError, RecursionError):
        return ""
    lines = [_line(root.find(f"{_NS}title"))]
    for section in root.iter(f"{_NS}section"):
        title, text = section.find(f"{_NS}title"), section.find(f"{_NS}text")
        if title is not None:
            lines += ["", _line(title).upper()]
        if text is not None:
            lines += "".join(_words(text)).split("\n")
    tidy = (" ".join(line.split()) for line in lines)
    kept: list[str] = []
    for line in tidy:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()[:_LONGEST]


def _line(element: Element | None) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""


def _words(element: Element) -> Iterator[str]:
    """The text of a narrative, a line for each block, cells apart."""
    yield element.text or ""
    for child in element:
        inner = str(child.tag).removeprefix(_NS)
        if inner == "renderMultiMedia":
            yield "(a picture that is not shown)"
        yield from _words(child)
        if inner in _BLOCKS:
            yield "\n"
        elif inner in ("td", "th"):
            yield "   "
        yield child.tail or ""
