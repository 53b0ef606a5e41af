"""When a patient may see a result: OBX-13.1, a delay in days (domain rules A5, delay)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from carefolio.hl7 import Segment, TimeFormatError, read_moment
from carefolio.mapping import codes
from carefolio.mapping.model import Context, Entry

AVAILABLE_FROM = f"{codes.BASE}/StructureDefinition/available-from"
_DAYS = re.compile(r"[1-9][0-9]{0,3}\Z", re.ASCII)


def delay_by(segment: Segment, request: Segment | None, entry: Entry, context: Context) -> None:
    """OBX-13.1: so many days after OBX-14 (OBR-7, MSH-7) the patient may see it; clinicians see it at once."""
    days = segment.get(13).strip()
    if not _DAYS.match(days):
        return
    start = context.mapped.time.instant
    for observed in (segment.get(14), request.get(7) if request else ""):
        try:
            start = read_moment(observed, context.source.zone).instant
            break
        except TimeFormatError:
            continue
    delay(entry, max(start + timedelta(days=int(days)), entry.available_from or start))


def delay(entry: Entry, until: datetime) -> None:
    """Mark a resource as one that its patient may see from a moment on."""
    entry.available_from = until
    extensions = [e for e in entry.resource.get("extension", []) if e["url"] != AVAILABLE_FROM]
    stamp = until.isoformat(timespec="seconds").replace("+00:00", "Z")
    entry.resource["extension"] = [{"url": AVAILABLE_FROM, "valueDateTime": stamp}, *extensions]
