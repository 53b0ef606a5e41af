"""``scripts/rehearse``: the promises of recovery, proved on this machine with the real PostgreSQL.

A stack runs under load; outside of it a ledger notes every message that was acknowledged, and when. Then a disaster
strikes, while messages come in. A new stack is made from nothing but what lies elsewhere: backups, the log, copies of
messages, secrets. What the ledger has is looked for in the record. RTO is the time from the disaster until everything
is back and compared; RPO how old the oldest acknowledged message is that the database had lost, before the copies are
put back. After that nothing may be missing, nor be there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from carefolio.cloud.settings import settings
from carefolio.local import growth, load
from carefolio.local.archive import Archive, ArchiveError
from carefolio.local.installation import REPOSITORY, Installation, installation
from carefolio.recovery import promises, proofs

_PATIENTS = 30
_RESULTS = 2
# Messages posted at once, four times a second: what is measured is recovery, not the door.
_AT_ONCE = 20
_BATCH = 0.25
_WAITING = "SELECT EXISTS (SELECT FROM message WHERE status = 'received')"


class RehearsalError(Exception):
    """The rehearsal itself could not go on; a promise that is not kept is in its report instead."""


@dataclass(slots=True)
class Outcome:
    """What came of one disaster; times in seconds.

    ``rpo``: of the database alone. ``lost`` acknowledged messages were missing there, ``missing`` still are after the
    copies were put back, ``doubled`` were applied twice. ``noticed``: what was said of it before it was needed.
    """

    name: str
    what: str
    rto: float = 0.0
    rpo: float = 0.0
    acknowledged: int = 0
    lost: int = 0
    missing: int = 0
    doubled: int = 0
    noticed: str = ""
    steps: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Stack:
    """One running installation on a home of its own, with what lies outside of it."""

    here: Installation
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start everything; return when every door is ready. Raises RehearsalError."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "carefolio.local.up", "--no-demo"], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        said = []
        for line in self.process.stdout or ():
            said.append(line)
            if line.startswith("ready:"):
                return
        raise RehearsalError("the stack does not start: " + "".join(said)[-500:])

    def cli(self, *arguments: str) -> Any:
        """What a command prints with --json. Raises RehearsalError."""
        done = subprocess.run(
            [sys.executable, "-m", "carefolio.cli", *arguments, "--json"], env=self.environment, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RehearsalError(f"carefolio {arguments[0]} {arguments[1]}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def die(self) -> None:
        """All of it at once, without a word: the machine is gone."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            there = [top, *top.children(recursive=True)]
            for each in there:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(there, timeout=10)
        self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None


class Rehearsal:
    """All disasters, one after the other; each goes on with the stack that came out of the one before."""

    def __init__(self, place: Path, report: Path, *, load_seconds: float, say: Callable[[str], None]) -> None:
        self._place, self._report, self._seconds, self._say = place, report, load_seconds, say
        self._ledger: dict[str, float] = {}
        self._number = 0
        self._serial = 0
        self._secret: tuple[str, str] = ("", "")
        self._patients: list[str] = []
        self.outcomes: list[Outcome] = []
        self.bytes = 0
        self._at = time.monotonic()
        self._stack: Stack
        self._archives: Path

    async def run(self, rows: int, only: list[str]) -> None:
        """Make the stack with so many made-up resources, then each disaster."""
        self._new_stack()
        self._stack.start()
        await self._fill(rows)
        for name, (what, strike, synchronous) in self._disasters().items():
            if only and name not in only:
                continue
            outcome = Outcome(name, what)
            self._say(f"{name}: {what}")
            if synchronous:
                self._restart(ARCHIVE_RECEIVER="on")
            await self._back_up(outcome)
            await strike(outcome)
            self.outcomes.append(outcome)
            self._say(
                f"  RTO {outcome.rto:.1f} s, RPO {outcome.rpo:.1f} s; of {outcome.acknowledged} the database had lost"
                f" {outcome.lost}; after the copies {outcome.missing} missing, {outcome.doubled} doubled"
            )
        self._stack.die()

    def _disasters(self) -> dict[str, tuple[str, Callable[[Outcome], Any], bool]]:
        return {
            "destroyed": ("the folder of the database is gone", self._destroyed, False),
            "streamed": ("the same, where each commit waits for a receiver", self._destroyed, True),
            "dropped": ("a table is dropped at a known second", self._dropped, False),
            "tail": ("the last of the log is lost with the database", self._tail, False),
            "corrupted": ("the newest backup is spoilt, then the database is gone", self._corrupted, False),
            "offsite": ("nothing is left but the off-site dump", self._offsite, False),
        }

    @property
    def _archive(self) -> Archive:
        [only] = Archive.all_in(self._archives)
        return only

    # What strikes

    async def _destroyed(self, outcome: Outcome) -> None:
        struck = await self._under_load(self._wreck)
        await self._recover(outcome, struck, self._from_backup(outcome))

    async def _dropped(self, outcome: Outcome) -> None:
        moment: list[datetime] = []

        async def drop() -> None:
            # What the clock of the server says just before.
            connection = await asyncpg.connect(self._stack.here.postgres.url)
            moment.append(await connection.fetchval("SELECT clock_timestamp()"))
            await connection.execute("DROP TABLE resource CASCADE")
            await connection.close()

        struck = await self._under_load(drop)
        # The last segment is archived before the machine is taken out of service: it runs still.
        connection = await asyncpg.connect(self._stack.here.postgres.url)
        await self._archived(connection)
        await connection.close()
        await self._recover(outcome, struck, self._from_backup(outcome, until=moment[0]))

    async def _tail(self, outcome: Outcome) -> None:
        struck = await self._under_load(self._wreck)
        max(path for path in self._archive.wal.iterdir() if len(path.name) == 24).unlink()
        await self._recover(outcome, struck, self._from_backup(outcome))

    async def _corrupted(self, outcome: Outcome) -> None:
        await self._load(self._seconds / 2)
        good = self._archive.backups()[-1]
        # The name of a backup is the second of its making.
        await asyncio.sleep(1.1)
        spoilt = self._archive.back_up(self._stack.here.postgres)
        spoil(spoilt)
        try:
            self._archive.verify(spoilt)
        except ArchiveError as error:
            outcome.noticed = str(error)
        struck = await self._under_load(self._wreck)
        await self._recover(outcome, struck, self._from_backup(outcome, backup=good))

    async def _offsite(self, outcome: Outcome) -> None:
        dump = self._archive.dump(self._stack.here.postgres)
        outcome.steps["dump"] = self._lap()

        archive = self._archive

        async def everything() -> None:
            await self._wreck()
            for folder in ("base", "wal", "stream"):
                shutil.rmtree(archive.folder / folder)

        struck = await self._under_load(everything)

        def load_dump(into: Installation) -> None:
            archive.load(dump, into.postgres, into.log("restoring"))
            outcome.steps["restored"] = self._lap()

        await self._recover(outcome, struck, load_dump)

    # How it goes

    def _new_stack(self) -> None:
        """A home, an archive and a port that nothing has been at; the secrets are where they always were."""
        self._number += 1
        home = self._place / f"stack-{self._number}"
        home.mkdir(mode=0o755)
        here = Installation(home, free_port())
        (home / "log").mkdir()
        self._archives = self._place / f"archive-{self._number}"
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        environment |= here.environment() | {
            "CAREFOLIO_HOME": str(home),
            "PORT": str(here.port),
            "SECRETS_DIR": str(self._place / "secrets"),
            "PUSH_KEYS": str(self._place / "secrets" / "push-keys.json"),
            "ARCHIVE_DIR": str(self._archives),
            "COPIES_URL": str(self._place / "copies"),
            # Nothing nightly meanwhile: what is rehearsed does it by itself.
            "OFFSITE_URL": "",
        }
        self._stack = Stack(here, environment)

    def _restart(self, **more: str) -> None:
        assert self._stack.process is not None
        self._stack.process.send_signal(signal.SIGINT)
        self._stack.process.wait(60)
        if self._stack.process.stdout:
            self._stack.process.stdout.close()
        self._stack.environment |= more
        self._stack.start()

    async def _fill(self, rows: int) -> None:
        self._stack.cli("organisation", "add", "RREH", "Rehearsal")
        sender = self._stack.cli("sender", "add", "feed", "--organisation", "RREH", "--allow", "127.0.0.0/8")
        self._secret = sender["username"], sender["password"]
        numbers = load.numbers()
        self._patients = [next(numbers) for _ in range(_PATIENTS)]
        await self._post([(f"R{number}", load.registration(number, f"R{number}")) for number in self._patients])
        connection = await asyncpg.connect(self._stack.here.postgres.url)
        if rows:
            organisation = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = 'RREH'")
            await growth.grow(connection, organisation, rows)
        self.bytes = await connection.fetchval("SELECT pg_database_size(current_database())")
        await connection.close()
        self._say(f"a stack with {self.bytes / 1e9:.2f} GB")

    async def _back_up(self, outcome: Outcome) -> None:
        self._lap()
        backup = self._archive.back_up(self._stack.here.postgres)
        outcome.steps["backed up"] = self._lap()
        connection = await asyncpg.connect(self._stack.here.postgres.url)
        await self._archived(connection)
        await connection.close()
        self._archive.verify(backup)
        outcome.steps["verified"] = self._lap()

    @staticmethod
    async def _archived(connection: asyncpg.Connection) -> None:
        """Wait until what is written so far is in the archive."""
        # Where nothing was written since the last segment there is nothing to switch from.
        await connection.execute("SELECT pg_logical_emit_message(true, 'carefolio', 'rehearsal')")
        name = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
        archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
        while await connection.fetchval(archived) < name:  # noqa: ASYNC110 - another process archives
            await asyncio.sleep(0.05)

    async def _post(self, messages: list[tuple[str, bytes]]) -> None:
        posted = await load.post(self._stack.here.port, *self._secret, messages, connections=4)
        self._ledger |= posted.when
        with (self._report / "ledger.jsonl").open("a") as file:
            file.writelines(json.dumps({"control_id": name, "at": at}) + "\n" for name, at in posted.when.items())

    async def _load(self, seconds: float) -> None:
        """A hospital's feed; what is not acknowledged is not in the ledger."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.monotonic()
            await self._post(list(self._messages()))
            await asyncio.sleep(max(0.0, _BATCH - (time.monotonic() - started)))

    def _messages(self) -> Iterator[tuple[str, bytes]]:
        for _ in range(_AT_ONCE):
            self._serial += 1
            patient = self._patients[self._serial % len(self._patients)]
            yield f"M{self._serial}", load.report(patient, f"M{self._serial}", _RESULTS)

    async def _under_load(self, strike: Callable[[], Any]) -> float:
        """Strike while messages come in; returns when that was (seconds since 1970)."""
        loading = asyncio.create_task(self._load(self._seconds))
        await asyncio.sleep(self._seconds * 0.8)
        struck = time.time()
        await strike()
        await loading
        return struck

    async def _wreck(self) -> None:
        self._stack.die()
        shutil.rmtree(self._stack.here.postgres.data)

    def _from_backup(
        self, outcome: Outcome, *, backup: Path | None = None, until: datetime | None = None
    ) -> Callable[[Installation], None]:
        archive = self._archive

        def restore(into: Installation) -> None:
            chosen = backup or archive.backups()[-1]
            archive.restore(into.postgres, into.log("restoring"), backup=chosen, until=until)
            outcome.steps["restored"] = self._lap()

        return restore

    async def _recover(self, outcome: Outcome, struck: float, restore: Callable[[Installation], None]) -> None:
        """A new stack from nothing, and the comparison with the ledger."""
        self._stack.die()
        before = self._archives
        self._new_stack()
        self._lap()
        await asyncio.to_thread(restore, self._stack.here)
        self._stack.start()
        outcome.steps["started"] = self._lap()
        connection = await asyncpg.connect(self._stack.here.postgres.url)
        outcome.acknowledged = len(self._ledger)
        # Of a little before the newest that the database has; what is put back is put back before anybody posts.
        newest = await connection.fetchval("SELECT max(received_at) FROM message")
        lost = await self._missing(connection)
        outcome.lost = len(lost)
        outcome.rpo = max((struck - self._ledger[name] for name in lost), default=0.0)
        outcome.rpo = max(outcome.rpo, 0.0)
        self._stack.cli("message", "put-back", "--since", f"{newest - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}")
        outcome.steps["put back"] = self._lap()
        while await connection.fetchval(_WAITING):  # noqa: ASYNC110 - another process applies them
            await asyncio.sleep(0.05)
        outcome.steps["applied"] = self._lap()
        outcome.missing, outcome.doubled = await self._compared(connection)
        outcome.steps["compared"] = self._lap()
        await connection.close()
        outcome.rto = time.time() - struck
        shutil.rmtree(before, ignore_errors=True)

    async def _missing(self, connection: asyncpg.Connection) -> set[str]:
        """What the ledger has and the database has not."""
        rows = await connection.fetch("SELECT control_id FROM message WHERE ack_code = 'AA'")
        return set(self._ledger) - {row["control_id"] for row in rows}

    async def _compared(self, connection: asyncpg.Connection) -> tuple[int, int]:
        """How many messages of the ledger are not whole in the right record, and how many are there twice."""
        rows = await connection.fetch(
            """
            SELECT control_id, count(DISTINCT message.id) AS messages, count(resource.id) AS results,
                   count(*) FILTER (WHERE resource.version > 1) AS changed
            FROM message LEFT JOIN resource ON resource.message_id = message.id AND resource.type = 'Observation'
                AND resource.patient_id = message.patient_id
            WHERE ack_code = 'AA' AND status = 'applied' AND control_id LIKE 'M%' GROUP BY 1
            """
        )
        found = {row["control_id"]: row for row in rows}
        wanted = [name for name in self._ledger if name.startswith("M")]
        missing = sum(name not in found or found[name]["results"] < _RESULTS for name in wanted)
        doubled = sum(row["messages"] > 1 or row["results"] > _RESULTS or row["changed"] > 0 for row in found.values())
        registered = {row["control_id"] for row in await connection.fetch(
            "SELECT control_id FROM message WHERE status = 'applied' AND control_id LIKE 'R%'"
        )}  # fmt: skip
        return missing + len({name for name in self._ledger if name.startswith("R")} - registered), doubled

    def clean(self) -> None:
        """Stop what still runs, and take everything away but the report."""
        with contextlib.suppress(AttributeError):
            self._stack.die()
        shutil.rmtree(self._place, ignore_errors=True)

    def _lap(self) -> float:
        """Seconds since it was last called."""
        now = time.monotonic()
        before, self._at = self._at, now
        return round(now - before, 2)


def spoil(backup: Path) -> None:
    """Change one byte in the middle of the largest file of a backup, as a failing disk does."""
    files = [path for path in (backup / "base").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Report:
    """What is filed: as it was measured, and as a page."""

    at: datetime
    gigabytes: float
    outcomes: list[Outcome]

    @property
    def good(self) -> bool:
        return all(
            each.rto <= promises.RTO and each.rpo <= promises.RPO and not each.missing and not each.doubled
            for each in self.outcomes
        ) and all(each.noticed for each in self.outcomes if each.name == "corrupted")

    def figures(self) -> dict[str, Any]:
        return {
            "rto": round(max((each.rto for each in self.outcomes), default=0.0), 1),
            "rpo": round(max((each.rpo for each in self.outcomes), default=0.0), 1),
            "missing": sum(each.missing for each in self.outcomes),
            "doubled": sum(each.doubled for each in self.outcomes),
            "gigabytes": round(self.gigabytes, 2),
            "disasters": [asdict(each) for each in self.outcomes],
        }

    def markdown(self) -> str:
        lines = [
            "# Rehearsal of recovery",
            "",
            f"{self.at:%Y-%m-%d %H:%M} UTC, a database of {self.gigabytes:.2f} GB, under load. "
            + ("Every promise was kept." if self.good else "**A promise was not kept.**"),
            f"Promised: RTO {promises.RTO // 60} minutes, RPO {promises.RPO // 60} minutes, no message lost.",
            "",
            "![RTO and RPO](chart.svg)",
            "",
            "| disaster | RTO, s | RPO, s | acknowledged | lost by the database | missing after the copies | twice |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {each.what} | {each.rto:.1f} | {each.rpo:.1f} | {each.acknowledged} | {each.lost} | {each.missing} "
                f"| {each.doubled} |"
                for each in self.outcomes
            ),
            "",
            *(f"Noticed before it was needed: {each.noticed}\n" for each in self.outcomes if each.noticed),
            "| disaster | " + " | ".join(_STEPS) + " |",
            "| --- |" + " --- |" * len(_STEPS),
            *(
                f"| {each.name} | " + " | ".join(_shown(each.steps.get(step)) for step in _STEPS) + " |"
                for each in self.outcomes
            ),
            "",
            "Seconds. The ledger of what was acknowledged, and when, is in ledger.jsonl.",
        ]
        return "\n".join(lines) + "\n"

    def chart(self) -> str:
        """RTO and RPO of each disaster as bars, on one scale."""
        longest = max((max(each.rto, each.rpo) for each in self.outcomes), default=1.0) or 1.0
        bars = []
        for number, each in enumerate(self.outcomes):
            top = 24 + number * 44
            bars.append(f'<text x="110" y="{top + 20}" text-anchor="end">{each.name}</text>')
            for row, (name, value, colour) in enumerate((("RTO", each.rto, "#005eb8"), ("RPO", each.rpo, "#d5281b"))):
                wide = 520 * value / longest
                bars.append(f'<rect x="120" y="{top + row * 17}" width="{wide:.1f}" height="14" fill="{colour}"/>')
                bars.append(f'<text x="{126 + wide:.1f}" y="{top + row * 17 + 12}">{name} {value:.1f} s</text>')
        high = 40 + 44 * len(self.outcomes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {high}" width="760" font-family="sans-serif" '
            f'font-size="12"><rect width="760" height="{high}" fill="#fff"/>{"".join(bars)}</svg>\n'
        )

    def file(self, folder: Path) -> None:
        told = {"at": self.at, "good": self.good} | self.figures()
        (folder / "report.json").write_text(json.dumps(told, default=str, indent=1))
        (folder / "report.md").write_text(self.markdown())
        (folder / "chart.svg").write_text(self.chart())


_STEPS = ("backed up", "verified", "dump", "restored", "started", "put back", "applied", "compared")


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def main() -> None:
    """Parse the command line, rehearse, file the report; exit status 1 where a promise was not kept."""
    parser = argparse.ArgumentParser("scripts/rehearse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--resources", type=int, default=20_000, help="made-up resources in the record (2 GB: 1000000)")
    parser.add_argument("--load", type=float, default=4.0, help="seconds of load before each disaster")
    parser.add_argument("--only", action="append", default=[], help="one disaster, by name; may be repeated")
    parser.add_argument("--report", type=Path, default=REPOSITORY / ".local" / "rehearsals", help="where reports go")
    given = parser.parse_args()
    # Of an installation with an archive it is proved to it, which waits for that.
    for name, value in installation().environment().items():
        if name == "OFFSITE_URL":
            os.environ.setdefault(name, value)
    at = datetime.now(UTC)
    folder = given.report / f"{at:%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    # A folder that the database's unprivileged user can reach.
    place = Path(tempfile.mkdtemp(prefix="carefolio-rehearsal-"))
    place.chmod(0o755)
    rehearsal = Rehearsal(place, folder, load_seconds=given.load, say=_say)
    try:
        asyncio.run(rehearsal.run(given.resources, given.only))
    except (RehearsalError, ArchiveError) as error:
        sys.exit(f"scripts/rehearse: {error}")
    finally:
        rehearsal.clean()
    report = Report(at, rehearsal.bytes / 1e9, rehearsal.outcomes)
    report.file(folder)
    if settings().offsite_url and not given.only:
        proofs.keep(proofs.Proof(proofs.REHEARSED, at, report.good, report.figures()))
    _say(report.markdown())
    _say(f"filed in {folder}")
    sys.exit(0 if report.good else 1)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the terminal's own program


if __name__ == "__main__":
    main()
