"""File names of both generations; they alone say what a file is, the folder says nothing.

``{bulk|delta}_{processingId}_{Schema}_{Table}_{yyyyMMddHHmmss}_{agreementGuid}.csv.gpg``, and until about 2021 without
the first part and with a range of processing ids.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from carefolio.emis.tables import tables

_NAME = re.compile(
    r"(?:(bulk|delta)_)?([0-9]{1,18})(?:-([0-9]{1,18}))?_([A-Za-z]{1,40})_([A-Za-z]{1,40})_([0-9]{14})"
    r"_\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?\.csv(\.gpg)?\Z"
)


class Kind(Enum):
    """What the name says of the batch: the whole, or what has changed; the older names do not say."""

    BULK = "bulk"
    DELTA = "delta"
    UNSAID = ""


@dataclass(frozen=True, slots=True)
class FileName:
    """``extracted_at`` names the batch, by the clock on the wall; ``processing`` its first and last processing id."""

    table: str
    kind: Kind
    processing: tuple[int, int]
    extracted_at: datetime
    agreement: uuid.UUID
    encrypted: bool

    @property
    def batch(self) -> str:
        """The batch's id: its timestamp as EMIS writes it."""
        return f"{self.extracted_at:%Y%m%d%H%M%S}"


def read_name(name: str) -> FileName | None:
    """What a file of that name is; None for one that is no part of an extract. The folder may stand before it."""
    match = _NAME.match(name.rpartition("/")[2])
    if match is None:
        return None
    kind, first, last, schema, table, stamp, agreement, encrypted = match.groups()
    wanted = f"{schema}_{table}".casefold()
    known = next((each for each in tables() if each.casefold() == wanted), None)
    try:
        # The clock on the wall, kept as it is: it names the batch and orders it.
        extracted_at = datetime.strptime(stamp, "%Y%m%d%H%M%S")  # noqa: DTZ007
    except ValueError:
        return None
    processing = (int(first), int(last or first))
    if known is None or processing[0] > processing[1]:
        return None
    return FileName(known, Kind(kind or ""), processing, extracted_at, uuid.UUID(agreement), bool(encrypted))
