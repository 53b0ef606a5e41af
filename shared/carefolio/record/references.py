"""What a resource refers to, and the names that a bundle's entries have for each other (R4 3.1.0.11.2)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from carefolio.cloud.database import Connection
from carefolio.fhir.errors import error
from carefolio.record import search
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.includes import logical_id


async def resolved(
    connection: Connection, reader: Reader, resource: dict[str, Any], names: dict[str, str], place: str
) -> dict[str, Any]:
    """The resource with the bundle's own names, and conditional references, replaced.

    ``names`` are the bundle's, and learn what conditions found. Raises FhirError where one is not true of one resource.
    """
    for question in dict.fromkeys(references(resource)):
        if question in names or not re.match(r"[A-Z][A-Za-z]+\?", question):
            continue
        kind, _, query = question.partition("?")
        if not reader.may(kind, "s"):
            raise error(403, "forbidden", f"a condition needs the scope system/{kind}.s", place)
        try:
            pairs = [*parse_qsl(query, keep_blank_values=True), ("_count", "2")]
            page = await search.search(connection, reader, [kind], pairs, strict=True)
        except SearchError as wrong:
            raise error(400, "invalid", f"a conditional reference: {wrong}", place) from None
        if len(page.found) != 1:
            wrong_count = "no resource" if not page.found else "more than one resource"
            raise error(412, "processing", f"a conditional reference is true of {wrong_count}", place)
        names[question] = f"{kind}/{logical_id(page.found[0].content)}"
    renamed: dict[str, Any] = _renamed(resource, names) if names else resource
    return renamed


def references(value: Any) -> list[str]:
    """Every Reference.reference within a value."""
    found = []
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            found.append(value["reference"])
        for inner in value.values():
            found += references(inner) if isinstance(inner, dict | list) else []
    elif isinstance(value, list):
        for inner in value:
            found += references(inner)
    return found


def names_of(full_url: str, reference: str) -> dict[str, str]:
    """What other entries call one: its fullUrl, and of an address its end, relative to their own (R4 2.36.4.1)."""
    kind = reference.partition("/")[0]
    relative = re.search(rf"://.*/({kind}/[A-Za-z0-9\-.]{{1,64}})\Z", full_url)
    return {full_url: reference} | ({relative.group(1): reference} if relative else {})


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """References, URLs of attachments and the like that name an entry of the bundle, and links in a narrative."""
    if isinstance(value, dict):
        return {
            name: _linked(inner, names) if name == "div" and isinstance(inner, str) else _renamed(inner, names)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _linked(div: str, names: dict[str, str]) -> str:
    """A narrative whose ``href`` and ``src`` name what the bundle's entries have become."""
    return re.sub(
        r"""\b(href|src)=(["'])(.*?)\2""",
        lambda match: f"{match[1]}={match[2]}{names.get(match[3], match[3])}{match[2]}",
        div,
    )
