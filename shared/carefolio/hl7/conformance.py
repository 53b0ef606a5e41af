"""A conformance report: what Carefolio will refuse, and where a message strays from its own version of the standard.

The versions' tables come from hl7apy, which is loaded only here: reports are made while a sender is set up, never
for a message on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from carefolio.hl7.errors import Place
from carefolio.hl7.reader import Message, Segment
from carefolio.hl7.rules import violations
from carefolio.hl7.time import TimeFormatError, read_moment

_VERSIONS = ("2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8", "2.8.1", "2.8.2")
_MOST_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """``error``: the message is refused (AR). ``warning``: against its version. ``information``: worth knowing.

    ``text`` never repeats a value of the message.
    """

    severity: Literal["error", "warning", "information"]
    place: str
    text: str


def conformance(message: Message, now: datetime, *, production: bool) -> list[Finding]:
    """Every finding, errors first, at most a thousand."""
    found = [Finding("error", str(e.place), e.reason) for e in violations(message, now, production=production)]
    version = message.header.get(12).strip()
    if version not in _VERSIONS:
        found.append(Finding("warning", "MSH-12", "no version of HL7 v2 that is known here; checked as 2.5"))
        version = "2.5"
    for segment in message.segments:
        for finding in _segment(segment, version):
            found.append(finding)
            if len(found) >= _MOST_FINDINGS:
                return found
    return found


def _segment(segment: Segment, version: str) -> Iterator[Finding]:
    if segment.name.startswith("Z"):
        yield Finding("information", str(segment.place()), "a segment of the sender's own: kept with its positions")
        return
    fields = _fields(version).get(segment.name)
    if fields is None:
        yield Finding("warning", str(segment.place()), f"no segment of version {version}")
        return
    for number, (name, kind, least, most, components) in fields.items():
        text = segment.field(number)
        if least and not text:
            yield Finding("warning", str(segment.place(number)), f"{name} is required in version {version}")
        if not text:
            continue
        repetitions = segment.repetitions(number)
        if 0 < most < len(repetitions):
            yield Finding("warning", str(segment.place(number)), f"{name} may be sent {most} time(s)")
        for repetition in repetitions:
            if components and len(repetition.components) > components:
                yield Finding("warning", str(repetition.place), f"more components than {kind} has ({components})")
            elif kind in ("DT", "TS", "DTM"):
                yield from _time(repetition.get(1), repetition.place)
    last = max(fields, default=0)
    if len(segment.fields) - 1 > last:
        beyond = [number for number in range(last + 1, len(segment.fields)) if segment.field(number)]
        for number in beyond:
            yield Finding("warning", str(segment.place(number)), f"version {version} ends at {segment.name}-{last}")


def _time(text: str, place: Place) -> Iterator[Finding]:
    if text and text != '""':
        try:
            read_moment(text)
        except TimeFormatError as error:
            yield Finding("warning", str(place), str(error))


@lru_cache(maxsize=len(_VERSIONS))
def _fields(version: str) -> dict[str, dict[int, tuple[str, str, int, int, int]]]:
    """Segment -> field number -> name, data type, least and most repetitions (-1: any), number of components."""
    import hl7apy

    library: Any = hl7apy.load_library(version)
    made: dict[str, dict[int, tuple[str, str, int, int, int]]] = {}
    for name, definition_of in library.SEGMENTS.items():
        if len(definition_of) < 2:
            # A segment that the version names and no longer defines.
            continue
        made[name] = {}
        for row in definition_of[1]:
            # Some rows of the tables are unfinished: a field without a definition says nothing.
            if not isinstance(row, tuple) or len(row) != 4 or row[1] is None:
                continue
            child, definition, (least, most), _ = row
            parts = definition[1]
            kind, title = definition[2], str(definition[3] or child).replace("_", " ").capitalize()
            number = int(child.rpartition("_")[2])
            components = len(parts) if parts and kind not in ("TS", "VARIES") else 0
            if name == "MSH" and number <= 2:
                continue
            made[name][number] = (title, kind, least, most, components)
    return made
