"""What one machine does for its recovery each night: a backup, read again; a dump, brought up by itself each week.

Each leaves a proof (carefolio.recovery.proofs), good or not, that /operations/recovery looks at.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from carefolio.cloud.settings import settings
from carefolio.local.archive import Archive, ArchiveError
from carefolio.local.postgres import Postgres, PostgresError, stop
from carefolio.recovery import proofs

_HOUR, _DAY, _WEEK = timedelta(hours=1), timedelta(hours=24), timedelta(days=7)
_COUNTS = """
SELECT json_build_object('schema', (SELECT count(*) FROM alembic_version), 'messages', (SELECT count(*) FROM message),
                         'resources', (SELECT count(*) FROM resource))
"""


def keep(archive: Archive, server: Postgres, log: Path) -> None:
    """Do what is due. Blocks; what fails is told by its proof. Raises OSError and ValueError where none can be kept."""
    if not settings().offsite_url:
        return
    # Proofs may be of a database that was here before.
    if not archive.backups() or _due(proofs.BACKED_UP, _DAY):
        _proved(proofs.BACKED_UP, lambda: _back_up(archive, server))
    if not archive.dumps() or _due(proofs.EXPORTED, _DAY):
        _proved(proofs.EXPORTED, lambda: _dump(archive, server))
    if _due(proofs.RESTORED, _WEEK):
        _proved(proofs.RESTORED, lambda: restore_alone(archive, log))


def _due(kind: str, every: timedelta) -> bool:
    """Whether the last is too old, or of a clock that was wrong; what failed is tried again in an hour."""
    last = proofs.newest(kind)
    now = datetime.now(UTC)
    return last is None or last.at > now + _HOUR or now - last.at > (every if last.good else _HOUR)


def _proved(kind: str, work: Callable[[], dict[str, Any]]) -> None:
    started = time.monotonic()
    try:
        figures, good = work(), True
    except (ArchiveError, PostgresError, OSError) as error:
        figures, good = {"wrong": str(error)[:500]}, False
    seconds = round(time.monotonic() - started, 1)
    proofs.keep(proofs.Proof(kind, datetime.now(UTC), good, figures | {"seconds": seconds}))


def _back_up(archive: Archive, server: Postgres) -> dict[str, Any]:
    made = archive.back_up(server)
    # Those before it too: one that was good may have been spoilt since.
    for backup in archive.backups():
        archive.verify(backup)
    archive.forget()
    return {"backup": made.name}


def _dump(archive: Archive, server: Postgres) -> dict[str, Any]:
    made = archive.dump(server)
    return {"dump": made.name, "bytes": made.stat().st_size}


def restore_alone(archive: Archive, log: Path) -> dict[str, Any]:
    """Bring the newest dump up by itself, count what is in it, throw it away. Raises ArchiveError, PostgresError."""
    dumps = archive.dumps()
    if not dumps:
        raise ArchiveError("there is no dump")
    home = Path(tempfile.mkdtemp(prefix="carefolio-restored-"))
    home.chmod(0o755)
    try:
        restored = Postgres(home)
        archive.load(dumps[-1], restored, log)
        server = restored.start(log)
        try:
            counted: dict[str, int] = json.loads(archive.ask(restored, _COUNTS))
        finally:
            stop(server)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if not counted["schema"]:
        raise ArchiveError(f"{dumps[-1].name} holds no schema")
    return {"dump": dumps[-1].name} | counted
