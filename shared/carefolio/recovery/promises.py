"""Whether the promises of recovery would be kept if it had to be now: looked at every five minutes.

Each thing that recovery rests on has an age or a state and a limit. What is over its limit is an alert
(``Event.RECOVERY_ALERT``), and so is what cannot be looked at. That the look itself is not made any more is seen from
outside (terraform/modules/watch/events.tf).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from carefolio.cloud import google
from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log
from carefolio.recovery import proofs

# Recovery point and recovery time, in seconds, as the client's document has them.
RPO, RTO = 600, 3600
_ADMIN = "https://sqladmin.googleapis.com/v1"
_NIGHT = timedelta(hours=26)
_WEEK = timedelta(days=8)
# Every six months, and a fortnight to put a failed one right.
_HALF_YEAR = timedelta(days=197)
# By how much a proof may be of the future.
_AHEAD = timedelta(minutes=10)
_first_look: dict[asyncio.AbstractEventLoop, datetime] = {}


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that would not be kept, and why, in words for whoever is woken."""

    promise: str
    detail: str


async def look(pool: Pool, now: datetime) -> list[Broken]:
    """What would not be kept, each told in the log; nothing is looked at that this installation does not have."""
    found = [broken async for broken in _archive(pool, now)]
    found += await asyncio.to_thread(lambda: list(_kept(now)))
    for broken in found:
        log(Event.RECOVERY_ALERT, promise=broken.promise, detail=broken.detail)
    log(Event.RECOVERY_LOOKED, promises=len(found))
    return found


async def _archive(pool: Pool, now: datetime) -> AsyncIterator[Broken]:
    """The write-ahead log is kept as fast as it is written: what is not kept is lost with the disk."""
    # Something has to be written, or an idle night looks like a log that nobody keeps.
    await pool.fetchval("SELECT pg_logical_emit_message(true, 'carefolio', 'looked')")
    archived = await pool.fetchrow(
        "SELECT current_setting('archive_mode') AS mode, last_archived_time AS last, last_failed_time AS failed"
        " FROM pg_stat_archiver"
    )
    if archived["mode"] == "off":
        return
    last, failed = archived["last"], archived["failed"]
    first = _first_look.setdefault(asyncio.get_running_loop(), now)
    if failed and (last is None or failed > last):
        yield Broken("log", f"the log has not been kept since {_stamp(last)}: keeping it fails")
    elif now - max(last or first, first) > timedelta(seconds=RPO):
        yield Broken("log", f"the log has not been kept since {_stamp(last)}")


def _kept(now: datetime) -> Iterator[Broken]:
    if settings().backed_up:
        yield from _tried("backup", lambda: _backup(now))
    if not settings().offsite_url:
        return
    for kind, limit, what in (
        (proofs.BACKED_UP, _NIGHT, "the backup"),
        (proofs.EXPORTED, _NIGHT, "the off-site export"),
        (proofs.RESTORED, _WEEK, "a restore of the off-site export by itself"),
        (proofs.REHEARSED, _HALF_YEAR, "a rehearsal"),
    ):
        # Cloud SQL's own backups are looked at where they are.
        if kind == proofs.BACKED_UP and settings().backed_up:
            continue
        yield from _tried(kind, partial(_proved, kind, now, limit, what))


def _tried(promise: str, look_at: Callable[[], Iterator[Broken]]) -> Iterator[Broken]:
    try:
        yield from look_at()
    except Exception as error:
        # What cannot be looked at is not known to be there.
        yield Broken(promise, f"cannot be looked at: {type(error).__name__}")


def _proved(kind: str, now: datetime, limit: timedelta, what: str) -> Iterator[Broken]:
    last = proofs.newest(kind)
    if last is None:
        yield Broken(kind, f"{what} has never been made")
        return
    if last.at - now > _AHEAD:
        yield Broken(kind, f"the last of {what} is of {_stamp(last.at)}, which has not been yet: a clock was wrong")
    if now - last.at > limit:
        yield Broken(kind, f"the last of {what} is of {_stamp(last.at)}")
    if not last.good:
        wrong = str(last.figures.get("wrong", "see its report"))[:200]
        yield Broken(kind, f"{what} of {_stamp(last.at)} failed: {wrong}")
    if kind == proofs.REHEARSED:
        for name, promised in (("rto", RTO), ("rpo", RPO)):
            took = float(last.figures[name])
            if took > promised:
                yield Broken(kind, f"{name.upper()} was {took:.0f} s, {promised} are promised")


def _backup(now: datetime) -> Iterator[Broken]:
    """Cloud SQL's own backups (https://cloud.google.com/sql/docs/postgres/admin-api/rest/v1/backupRuns/list)."""
    wanted = settings()
    answer = google.call(f"{_ADMIN}/projects/{wanted.project}/instances/{wanted.backed_up}/backupRuns?maxResults=20")
    good = [each["endTime"] for each in answer.get("items", []) if each.get("status") == "SUCCESSFUL"]
    last = max((datetime.fromisoformat(each) for each in good), default=None)
    if last is None or now - last > _NIGHT:
        yield Broken("backup", f"the last good backup is of {_stamp(last)}")


def _stamp(at: datetime | None) -> str:
    return at.astimezone(UTC).isoformat(timespec="minutes") if at else "the beginning"
