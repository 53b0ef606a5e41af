"""The nightly export of the whole database into the off-site bucket, by Cloud SQL itself.

(https://cloud.google.com/sql/docs/postgres/admin-api/rest/v1/instances/export and …/operations)

It runs on a machine of its own (offload), so that nobody waits for it, and with several threads. The clock asks each
hour; a night that failed is tried again the next hour.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from carefolio.cloud import google
from carefolio.cloud.schedule import ZONE
from carefolio.cloud.settings import settings
from carefolio.recovery import proofs

_ADMIN = "https://sqladmin.googleapis.com/v1"
# Not before this hour of the night.
_FROM_HOUR = 1
_THREADS = 8


class Export(Enum):
    """What ``keep`` found or did."""

    NONE = "there is nothing to export from here"
    EARLY = "not yet night"
    THERE = "this night's is there"
    RUNNING = "under way"
    STARTED = "started"


def keep(now: datetime) -> Export:
    """Have this night's export made, and its proof written when it is there. Blocks; raises OSError."""
    wanted = settings()
    if not wanted.backed_up:
        return Export.NONE
    here = now.astimezone(ZoneInfo(ZONE))
    tonight = here.replace(hour=0, minute=0, second=0, microsecond=0)
    last = proofs.newest(proofs.EXPORTED)
    if last is not None and last.good and last.at >= tonight:
        return Export.THERE
    instance = f"{_ADMIN}/projects/{wanted.project}"
    listed = google.call(f"{instance}/operations?instance={wanted.backed_up}&maxResults=50").get("items", [])
    for operation in listed:
        uri = operation.get("exportContext", {}).get("uri", "")
        # What somebody exports by hand is not the night's.
        if operation.get("operationType") != "EXPORT" or not uri.startswith(f"{wanted.offsite_url}/exports/"):
            continue
        begun = datetime.fromisoformat(operation["insertTime"])
        if operation["status"] != "DONE":
            return Export.RUNNING
        if begun >= tonight and not operation.get("error"):
            ended = datetime.fromisoformat(operation["endTime"])
            proofs.keep(
                proofs.Proof(proofs.EXPORTED, ended, True, {"uri": uri, "seconds": (ended - begun).total_seconds()})
            )
            return Export.THERE
    if here.hour < _FROM_HOUR:
        return Export.EARLY
    google.call(f"{instance}/instances/{wanted.backed_up}/export", {"exportContext": _context(here)})
    return Export.STARTED


def _context(now: datetime) -> dict[str, Any]:
    return {
        "fileType": "SQL",
        "uri": f"{settings().offsite_url}/exports/{now:%Y%m%dT%H%M%S}",
        "databases": [settings().database_name],
        "offload": True,
        "sqlExportOptions": {"parallel": True, "threads": _THREADS},
    }
