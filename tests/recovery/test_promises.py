"""A recovery that would fail is told before anybody needs it: spoilt backups, gaps in the log, rehearsals not made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from carefolio.cloud import google
from carefolio.cloud.settings import settings
from carefolio.local import nightly
from carefolio.local.archive import Archive, ArchiveError
from carefolio.local.postgres import Postgres, stop
from carefolio.local.rehearse import spoil
from carefolio.recovery import offsite, promises, proofs

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def server(homes: Callable[[], Path]) -> Iterator[tuple[Postgres, Archive]]:
    """A small database with an archive, and what makes it one of ours."""
    home = homes()
    made, archive = Postgres(home), Archive(home / "archive")
    made.make()
    archive.make()
    process = made.start(home / "log", archive.options())
    tables = "CREATE TABLE alembic_version (v text); INSERT INTO alembic_version VALUES ('1');"
    archive.ask(made, tables + "CREATE TABLE message (id int); CREATE TABLE resource (id int)")
    yield made, archive
    stop(process)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty place of proofs."""
    monkeypatch.setenv("OFFSITE_URL", str(tmp_path / "offsite"))
    settings.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
async def connections(server: tuple[Postgres, Archive]) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(server[0].url, min_size=1, max_size=2) as pool:
        yield pool


def alerts(capsysbinary: pytest.CaptureFixture[bytes]) -> dict[str, list[str]]:
    """What was logged as an alert, by promise."""
    told: dict[str, list[str]] = {}
    for line in capsysbinary.readouterr().out.splitlines():
        said = json.loads(line)
        if said.get("event") == "recovery_alert":
            assert said["severity"] == "ERROR"
            told.setdefault(said["promise"], []).append(said["detail"])
    return told


def prove(kind: str, at: datetime = NOW, *, good: bool = True, **figures: Any) -> None:
    proofs.keep(proofs.Proof(kind, at, good, figures))


async def test_all_is_well_where_everything_was_proved(
    server: tuple[Postgres, Archive], kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The night's work of one machine, then a look; it is not done twice."""
    nightly.keep(server[1], server[0], kept / "log")
    prove(proofs.REHEARSED, rto=300, rpo=20)
    assert await promises.look(connections, datetime.now(UTC)) == []
    assert alerts(capsysbinary) == {}
    restored = proofs.newest(proofs.RESTORED)
    assert restored is not None
    assert restored.good
    nightly.keep(server[1], server[0], kept / "log")
    assert len(list((kept / "offsite/proofs/backed-up").iterdir())) == 1


async def test_what_was_never_proved_is_an_alert(
    kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    await promises.look(connections, NOW)
    assert set(alerts(capsysbinary)) == {proofs.BACKED_UP, proofs.EXPORTED, proofs.RESTORED, proofs.REHEARSED}


@pytest.mark.parametrize(
    ("kind", "days"), [(proofs.BACKED_UP, 2), (proofs.EXPORTED, 2), (proofs.RESTORED, 9), (proofs.REHEARSED, 200)]
)
async def test_what_was_proved_too_long_ago_is_an_alert(
    kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes], kind: str, days: int
) -> None:
    for each in (proofs.BACKED_UP, proofs.EXPORTED, proofs.RESTORED, proofs.REHEARSED):
        prove(each, NOW - timedelta(days=days) if each == kind else NOW, rto=1, rpo=1)
    await promises.look(connections, NOW)
    assert set(alerts(capsysbinary)) == {kind}


async def test_a_proof_of_the_future_is_an_alert_and_hides_nothing(
    server: tuple[Postgres, Archive], kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A clock was wrong once: the night's work is done all the same."""
    prove(proofs.BACKED_UP, NOW + timedelta(days=400))
    await promises.look(connections, NOW)
    assert "has not been yet" in alerts(capsysbinary)[proofs.BACKED_UP][0]
    before = len(server[1].backups())
    nightly.keep(server[1], server[0], kept / "log")
    assert len(server[1].backups()) > before or before == 2


@pytest.mark.parametrize(
    ("figures", "said"), [({"rto": 3700, "rpo": 1}, "RTO was 3700"), ({"rto": 1, "rpo": 700}, "RPO")]
)
async def test_a_rehearsal_that_took_too_long_is_an_alert(
    kept: Path,
    connections: asyncpg.Pool,
    capsysbinary: pytest.CaptureFixture[bytes],
    figures: dict[str, int],
    said: str,
) -> None:
    prove(proofs.REHEARSED, **figures)
    await promises.look(connections, NOW)
    assert said in alerts(capsysbinary)[proofs.REHEARSED][0]


async def test_a_spoilt_backup_is_an_alert_before_anybody_needs_it(
    server: tuple[Postgres, Archive], kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """One byte of a file of the newest backup."""
    archive = server[1]
    spoilt = archive.back_up(server[0])
    spoil(spoilt)
    nightly.keep(archive, server[0], kept / "log")
    await promises.look(connections, datetime.now(UTC))
    assert "is spoilt" in alerts(capsysbinary)[proofs.BACKED_UP][0]
    manifest = spoilt / "backup_manifest"
    manifest.write_bytes(manifest.read_bytes().replace(b'"Size": 8192', b'"Size": 8193', 1))
    with pytest.raises(ArchiveError, match="manifest is spoilt"):
        archive.verify(spoilt)
    # Out of the way of the other tests, as an operator would.
    spoilt.rename(kept / "spoilt")


@pytest.mark.parametrize("how", ["gone", "short", "changed", "zeroed"])
async def test_a_gap_in_the_log_is_an_alert_before_anybody_needs_it(
    server: tuple[Postgres, Archive], kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes],
    how: str,
) -> None:  # fmt: skip
    made, archive = server
    archive.back_up(made)
    for _ in range(3):
        await switched(connections, archive)
    segment = sorted(path for path in archive.wal.iterdir() if len(path.name) == 24)[-2]
    whole = segment.read_bytes()
    if how == "gone":
        segment.unlink()
    elif how == "short":
        segment.write_bytes(whole[:-8192])
    elif how == "zeroed":
        # As after a power cut: it has its size, and nothing in it.
        segment.write_bytes(bytes(len(whole)))
    else:
        segment.write_bytes(whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:])
    try:
        nightly.keep(archive, made, kept / "log")
        await promises.look(connections, datetime.now(UTC))
        assert alerts(capsysbinary)[proofs.BACKED_UP][0]
    finally:
        segment.write_bytes(whole)


async def switched(connections: asyncpg.Pool, archive: Archive) -> None:
    """A segment more in the archive."""
    await connections.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000))")
    name = await connections.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
    while not (archive.wal / name).exists():
        await asyncio.sleep(0.05)


async def test_a_log_that_is_not_kept_is_an_alert(
    server: tuple[Postgres, Archive], kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The disk of the archive is full: PostgreSQL goes on, and nobody would see it."""
    server[1].wal.rename(server[1].wal.with_name("away"))
    try:
        await connections.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        await connections.execute("SELECT pg_switch_wal()")
        for _ in range(100):
            if await connections.fetchval("SELECT failed_count > 0 FROM pg_stat_archiver"):
                break
            await asyncio.sleep(0.1)
        await promises.look(connections, datetime.now(UTC))
        assert "keeping it fails" in alerts(capsysbinary)["log"][0]
    finally:
        server[1].wal.with_name("away").rename(server[1].wal)
    while await connections.fetchval("SELECT last_failed_time > last_archived_time FROM pg_stat_archiver"):
        await asyncio.sleep(0.1)
    await promises.look(connections, datetime.now(UTC))
    assert "log" not in alerts(capsysbinary)


async def test_what_cannot_be_looked_at_is_an_alert(
    kept: Path, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    prove(proofs.REHEARSED, rto=1, rpo=1)
    [file] = (kept / "offsite/proofs/rehearsed").iterdir()
    file.write_text("{")
    await promises.look(connections, NOW)
    assert alerts(capsysbinary)[proofs.REHEARSED] == ["cannot be looked at: JSONDecodeError"]


class Admin:
    """Cloud SQL Admin API v1 as it is published: operations.list, instances.export, backupRuns.list."""

    def __init__(self) -> None:
        self.operations: list[dict[str, Any]] = []
        self.backups: list[dict[str, Any]] = []
        self.exported: list[dict[str, Any]] = []

    def call(self, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        assert url.startswith("https://sqladmin.googleapis.com/v1/projects/p/")
        if url.endswith("/instances/carefolio-primary/export"):
            assert body is not None
            self.exported.append(body["exportContext"])
            begun = {"operationType": "EXPORT", "status": "RUNNING", "insertTime": stamp(datetime.now(UTC))}
            self.operations.insert(0, begun | {"exportContext": {"uri": body["exportContext"]["uri"]}})
            return self.operations[0]
        if "/backupRuns?" in url:
            return {"items": self.backups} if self.backups else {}
        assert "/operations?instance=carefolio-primary&" in url
        return {"items": self.operations}


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture
def admin(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    made = Admin()
    monkeypatch.setattr(google, "call", made.call)
    monkeypatch.setenv("BACKED_UP", "carefolio-primary")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    settings.cache_clear()
    yield made
    settings.cache_clear()


def test_each_night_has_its_export_and_its_proof(admin: Admin) -> None:
    night = datetime.now(UTC).replace(hour=3)
    assert offsite.keep(night.replace(hour=0, minute=10)) in (offsite.Export.EARLY, offsite.Export.STARTED)
    admin.operations.clear()
    # Somebody's own export, of a table, is not the night's.
    by_hand = {"operationType": "EXPORT", "status": "DONE", "insertTime": stamp(night), "endTime": stamp(night)}
    admin.operations.append(by_hand | {"exportContext": {"uri": "gs://elsewhere/table.sql"}})
    assert offsite.keep(night) is offsite.Export.STARTED
    context = admin.exported[-1]
    assert (context["databases"], context["offload"], context["fileType"]) == (["carefolio"], True, "SQL")
    assert context["sqlExportOptions"]["parallel"] is True
    assert offsite.keep(night) is offsite.Export.RUNNING
    done = {"status": "DONE", "insertTime": stamp(night), "endTime": stamp(night + timedelta(minutes=9))}
    admin.operations[0] |= done | {"error": {"errors": [{"code": "ERROR_RDBMS"}]}}
    # A night that failed is tried again the next hour.
    assert offsite.keep(night + timedelta(hours=1)) is offsite.Export.STARTED
    admin.operations[0] |= {
        "status": "DONE",
        "insertTime": stamp(night),
        "endTime": stamp(night + timedelta(minutes=9)),
    }
    assert offsite.keep(night + timedelta(hours=2)) is offsite.Export.THERE
    proof = proofs.newest(proofs.EXPORTED)
    assert proof is not None
    assert (proof.good, proof.figures["seconds"]) == (True, 540)
    admin.operations.clear()
    assert offsite.keep(night + timedelta(hours=3)) is offsite.Export.THERE
    assert offsite.keep(night + timedelta(days=1)) is offsite.Export.STARTED


async def test_cloud_sqls_own_backups_are_looked_at(
    admin: Admin, connections: asyncpg.Pool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for kind in (proofs.EXPORTED, proofs.RESTORED, proofs.REHEARSED):
        prove(kind, rto=1, rpo=1)
    admin.backups = [{"status": "FAILED", "endTime": stamp(NOW)}]
    await promises.look(connections, NOW)
    assert alerts(capsysbinary) == {"backup": ["the last good backup is of the beginning"]}
    admin.backups.append({"status": "SUCCESSFUL", "endTime": stamp(NOW - timedelta(hours=20))})
    await promises.look(connections, NOW)
    assert alerts(capsysbinary) == {}
    await promises.look(connections, NOW + timedelta(hours=7))
    assert "backup" in alerts(capsysbinary)
