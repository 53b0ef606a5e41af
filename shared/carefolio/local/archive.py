"""One machine's own way back: base backups and the write-ahead log of the embedded PostgreSQL, outside of its folder.

The same means that Cloud SQL has (docs/runbooks/recovery.md): a base backup with a manifest, every segment of the log
as soon as it is full or half a minute old, or each commit at once where a receiver stands by (``synchronous``); and a
dump that needs neither. Commands are PostgreSQL's own: pg_basebackup, pg_waldump, pg_receivewal, pg_dump, pg_restore.
(The wheel's pg_verifybackup ends with a segmentation fault on every backup, so the manifest is read here.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from carefolio.local.postgres import Postgres, PostgresError, own, reachable, stop, tool, unprivileged

_SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
_SEGMENTS_A_LOG = 256
_SEGMENT_BYTES = 16 * 1024 * 1024
_RECEIVER = "receiver"
# Seconds after which what is written is archived, however little it is: 16 MB each time, until the backup before the
# last is let go of (some 50 GB on an idle machine).
_TIMEOUT = 50
_KEPT_BACKUPS = 2
_KEPT_DUMPS = 3


class ArchiveError(Exception):
    """A backup or a log that would not bring the database back; the text says what is wrong with which file."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A folder with ``base/`` (backups, by when they began), ``wal/``, ``stream/`` (a receiver's) and ``dump/``.

    It is one database's own: ``of`` names it by the identifier that each has from its making.
    """

    folder: Path

    @classmethod
    def of(cls, place: Path, server: Postgres) -> Archive:
        """The folder of this server's database in a place for many. Raises ArchiveError."""
        told = _run("pg_controldata", server.data)
        found = re.search(r"Database system identifier:\s+(\d+)", told)
        if found is None:
            raise ArchiveError(f"{server.data} is no database")
        return cls(place / f"database-{found[1]}")

    @classmethod
    def all_in(cls, place: Path) -> list[Archive]:
        """Those that are in a place, the one with the newest backup last."""
        found = [cls(path) for path in place.glob("database-*") if (path / "base").is_dir()]
        return sorted(found, key=lambda each: [path.name for path in each.backups()][-1:])

    @property
    def wal(self) -> Path:
        return self.folder / "wal"

    @property
    def stream(self) -> Path:
        return self.folder / "stream"

    def make(self) -> None:
        """Make the folders, which only the server's user enters. Raises PostgresError."""
        if unprivileged() and not reachable(self.folder.parent):
            raise PostgresError(f"{self.folder.parent} cannot be reached by the user that the database runs as.")
        for folder in (self.folder, self.folder / "base", self.wal, self.stream, self.folder / "dump"):
            own(folder)

    def options(self, *, synchronous: bool = False) -> dict[str, str]:
        """What the server needs to archive here.

        Under a name of its own first, and on the disk before it gets the right one: a reader never sees half a segment.
        One that is there already, since the machine stopped before that was noted, has to be the same.
        """
        wal = _quoted(self.wal)
        made = {
            "archive_mode": "on",
            "archive_timeout": str(_TIMEOUT),
            "archive_command": (
                f"if test -f {wal}/%f; then cmp -s %p {wal}/%f; else cp %p {wal}/.%f.part && sync {wal}/.%f.part"
                f" && mv {wal}/.%f.part {wal}/%f && sync {wal}; fi"
            ),
        }
        if synchronous:
            # A receiver that does not come back must not fill the disk.
            made |= {"synchronous_standby_names": _RECEIVER, "max_slot_wal_keep_size": "4GB"}
        return made

    def backups(self) -> list[Path]:
        """Whole base backups, the newest last."""
        return sorted(path for path in (self.folder / "base").iterdir() if (path / "backup_manifest").exists())

    def back_up(self, server: Postgres) -> Path:
        """Take a base backup of the running server, and let go of those that are too many. Raises ArchiveError."""
        made = self.folder / "base" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        unfinished = made.with_suffix(".part")
        _run(
            "pg_basebackup", "-D", unfinished, "-d", server.url, "--checkpoint=fast", "--wal-method=none",
            "--manifest-checksums=SHA256", "--no-sync", "--label=carefolio",
        )  # fmt: skip
        unfinished.rename(made)
        return made

    def dumps(self) -> list[Path]:
        """Whole dumps, the newest last."""
        return sorted((self.folder / "dump").glob("*.dump"))

    def forget(self) -> None:
        """Let go of backups and dumps that are too many, of the log before the oldest, of what was left half made."""
        for old in self.backups()[:-_KEPT_BACKUPS]:
            shutil.rmtree(old)
        for dump in self.dumps()[:-_KEPT_DUMPS]:
            dump.unlink()
        for left in (*(self.folder / "base").glob("*.part"), *(self.folder / "dump").glob("*.part")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        first = _first_segment(self.backups()[0])
        for segment in (*self.wal.iterdir(), *self.stream.iterdir()):
            # By its place in the log, whichever timeline; a timeline's history is small and stays.
            if _SEGMENT.match(segment.name[:24]) and segment.name[8:24] < first[8:]:
                segment.unlink()

    def verify(self, backup: Path) -> None:
        """Read every file of a backup against its manifest, and the log from its beginning to the newest segment.

        Raises ArchiveError, naming the file.
        """
        _verify_files(backup)
        segments = self._segments(backup)
        # Reads each record and its checksum; a segment that is missing or spoilt ends it.
        try:
            _run("pg_waldump", "--quiet", "--path", self.wal, segments[0].name, segments[-1].name)
        except ArchiveError as error:
            # In the newest segment, which need not be full, the records simply end; anywhere else nothing may.
            place = re.search(r"at ([0-9A-F]+)/([0-9A-F]+)", str(error))
            if place is None or f"{int(place[1], 16):08X}{int(place[2], 16) >> 24:08X}" != segments[-1].name[8:]:
                raise ArchiveError(f"the log is spoilt: {error}") from None

    def _segments(self, backup: Path) -> list[Path]:
        """The segments since a backup began, none missing. Raises ArchiveError."""
        first = _first_segment(backup)
        # Of its own timeline: what came of it after a recovery is another's.
        there = sorted(
            path for path in self.wal.glob(f"{first[:8]}*") if _SEGMENT.match(path.name) and path.name >= first
        )
        if not there or there[0].name != first:
            raise ArchiveError(f"the log begins after the backup: {first} is not there")
        for one, following in pairwise(there):
            if following.name != _after(one.name):
                raise ArchiveError(f"the log has a gap: {_after(one.name)} is not there")
        for path in there:
            if path.stat().st_size != _SEGMENT_BYTES:
                raise ArchiveError(f"the log is spoilt: {path.name} is not whole")
        return there

    def restore(self, into: Postgres, log: Path, *, backup: Path, until: datetime | None = None) -> None:
        """Bring a backup and the log up to a moment, or to its end, as a new database, and leave that stopped.

        ``log`` is the file for the server's own words. What of the log is after the moment stays in the archive; what
        comes from now on is another timeline, and its history is archived here too. Raises ArchiveError and
        PostgresError, also for a moment that the log does not reach.
        """
        own(into.data)
        shutil.copytree(backup, into.data, dirs_exist_ok=True)
        _give_away(into.data)
        # Of a receiver also what it had of the segment that was being written.
        wal, stream = _quoted(self.wal), _quoted(self.stream)
        get = " || ".join(f"cp {place} %p" for place in (f"{wal}/%f", f"{stream}/%f", f"{stream}/%f.partial"))
        options = self.options() | {"restore_command": get}
        if until is not None:
            options |= {"recovery_target_time": until.isoformat(), "recovery_target_action": "promote"}
        (into.data / "recovery.signal").touch()
        _give_away(into.data / "recovery.signal")
        server = into.start(log, options)
        try:
            self._promoted(into, server)
        finally:
            stop(server)

    @staticmethod
    def _promoted(server: Postgres, process: subprocess.Popen[bytes]) -> None:
        """Wait until the log is replayed and the database is its own; it ends by itself where it cannot be."""
        while process.poll() is None:
            with contextlib.suppress(ArchiveError):
                if Archive.ask(server, "SELECT pg_is_in_recovery()") == "f":
                    return
            time.sleep(0.1)
        raise ArchiveError("the log could not be replayed to that moment: the server's log says why")

    @staticmethod
    def ask(server: Postgres, statement: str) -> str:
        """One value from a server. Raises ArchiveError."""
        return _run("psql", "-X", "-A", "-t", "-d", server.url, "-c", statement).strip()

    def receive(self, server: Postgres, log: Path) -> subprocess.Popen[bytes]:
        """Receive the log as it is written: with ``synchronous`` a commit is here before it is answered.

        The server keeps for it what it has not had yet (a slot). Raises ArchiveError.
        """
        where = f"{server.url}&application_name={_RECEIVER}"
        _run("pg_receivewal", "--slot", _RECEIVER, "--create-slot", "--if-not-exists", "-d", where)
        with log.open("ab") as output:
            return subprocess.Popen(
                [tool("pg_receivewal"), "-D", self.stream, "--synchronous", "--no-loop",
                 "--slot", _RECEIVER, "-d", where],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True,
                **unprivileged(),
            )  # fmt: skip

    def dump(self, server: Postgres) -> Path:
        """All of the database in one file that needs no log and no version of PostgreSQL. Raises ArchiveError."""
        made = self.folder / "dump" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"
        unfinished = made.with_suffix(".part")
        _run("pg_dump", "-Fc", "--compress=1", "-d", server.url, "-f", unfinished)
        unfinished.rename(made)
        return made

    def load(self, dump: Path, into: Postgres, log: Path) -> None:
        """A dump as a new database, left stopped. Raises ArchiveError and PostgresError."""
        into.make()
        # Nothing is there that could be lost before it is whole.
        server = into.start(log, {"fsync": "off", "synchronous_commit": "off", "maintenance_work_mem": "512MB"})
        try:
            _run("pg_restore", "-j2", "--no-owner", "--exit-on-error", "-d", into.url, dump)
            _run("psql", "-X", "-q", "-d", into.url, "-c", "ANALYZE")
        finally:
            stop(server)


def _verify_files(backup: Path) -> None:
    """Every file is as the manifest has it (PostgreSQL, "Backup Manifest Format"). Raises ArchiveError."""
    text = (backup / "backup_manifest").read_bytes()
    body, _, rest = text.rpartition(b'"Manifest-Checksum": "')
    if hashlib.sha256(body).hexdigest() != rest[:64].decode("ascii", "replace"):
        raise ArchiveError(f"{backup.name}: its manifest is spoilt")
    for each in json.loads(text)["Files"]:
        path = backup / each["Path"]
        if not path.is_file():
            raise ArchiveError(f"{backup.name}: {each['Path']} is not there")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != each["Checksum"]:
                raise ArchiveError(f"{backup.name}: {each['Path']} is spoilt")


def _after(name: str) -> str:
    """The name of the next segment (PostgreSQL, access/xlog_internal.h)."""
    timeline, log, segment = name[:8], int(name[8:16], 16), int(name[16:], 16) + 1
    return f"{timeline}{log + segment // _SEGMENTS_A_LOG:08X}{segment % _SEGMENTS_A_LOG:08X}"


def _first_segment(backup: Path) -> str:
    """The segment of the log with which a backup begins. Raises ArchiveError."""
    found = re.search(r"START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)", (backup / "backup_label").read_text())
    if found is None:
        raise ArchiveError(f"{backup.name}: its label does not say where the log begins")
    return found[1]


def _quoted(path: Path) -> str:
    """A path in a command of the server's, whose % is a place for something."""
    return shlex.quote(str(path)).replace("%", "%%")


def _run(name: str, *arguments: str | Path) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, check=False, cwd="/", **unprivileged()
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArchiveError(last)
    return done.stdout


def _give_away(path: Path) -> None:
    """To the user that the server runs as."""
    who = unprivileged()
    if not who:
        return
    for each in (path, *path.rglob("*")):
        os.chown(each, who["user"], who["group"])
