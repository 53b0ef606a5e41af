"""``scripts/up``: start everything on this machine, play a demonstration, and keep it running until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import aiohttp
import asyncpg

from carefolio.cloud import closing, database, migrations
from carefolio.cloud.queue import EMBEDDED_SCHEMA
from carefolio.cloud.settings import settings
from carefolio.emis.errors import ExtractError
from carefolio.local import demo, extract_demo, nightly, postgres
from carefolio.local.archive import Archive, ArchiveError
from carefolio.local.installation import Installation, InstallationError, installation
from carefolio.local.serve import url_map
from carefolio.terminology import store

_LEAST_DISK = 300 * 1024 * 1024
_SIDES = ("public", "internal", "dispatcher")
_STARTS_WITHIN = 30
# How often it is looked whether a backup is due, in seconds.
_LOOKS_EVERY = 600
# Whether each commit waits until another process has it too (pg_receivewal into the archive).
_RECEIVED = os.environ.get("ARCHIVE_RECEIVER", "") == "on"


class Supervisor:
    """Starts the database and the processes, and starts again what dies."""

    def __init__(self, here: Installation) -> None:
        self._here = here
        self._server: subprocess.Popen[bytes] | None = None
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._archive: Archive | None = None
        self._receiver: subprocess.Popen[bytes] | None = None

    @property
    def embedded_database(self) -> bool:
        return settings().database_url == self._here.postgres.url

    def start_database(self) -> None:
        """Raises PostgresError."""
        if not self._here.postgres.exists():
            _say("making the database ...")
            self._here.postgres.make()
        if self._here.archives is not None:
            self._archive = Archive.of(self._here.archives, self._here.postgres)
            self._archive.make()
        self._start_server()

    def _start_server(self) -> None:
        if self._archive is None:
            self._server = self._here.postgres.start(self._here.log("postgres"))
            return
        options = self._archive.options(synchronous=_RECEIVED)
        self._server = self._here.postgres.start(self._here.log("postgres"), options)
        if _RECEIVED:
            # Before anybody commits: each commit waits for it.
            self._receiver = self._archive.receive(self._here.postgres, self._here.log("receiver"))

    async def start(self) -> None:
        """Start the processes; return when every function says that it is ready. Raises InstallationError."""
        for side in _SIDES:
            self._watches.append(asyncio.create_task(self._keep_running(side)))
        if self._server is not None:
            self._watches.append(asyncio.create_task(self._keep_database()))
        if self._archive is not None and self._server is not None:
            self._watches.append(asyncio.create_task(self._keep_archive(self._archive)))
        if self._receiver is not None:
            self._watches.append(asyncio.create_task(self._keep_receiver()))
        await self._until_ready()

    async def stop(self) -> None:
        """Stop everything, the database last."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        running = [child for child in self._children.values() if child.returncode is None]
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        try:
            await asyncio.wait_for(asyncio.gather(*(child.wait() for child in running)), 15)
        except TimeoutError:
            for child in running:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
        if self._server is not None:
            await asyncio.to_thread(postgres.stop, self._server)
        if self._receiver is not None:
            await asyncio.to_thread(postgres.stop, self._receiver)

    async def _keep_running(self, side: str) -> None:
        pause = 0.1
        while True:
            started = asyncio.get_running_loop().time()
            with self._here.log(side).open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "carefolio.local.serve", side,
                    stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            self._children[side] = child
            await child.wait()
            if asyncio.get_running_loop().time() - started > 10:
                pause = 0.1
            _say(f"the {side} process ended unexpectedly: starting it again (see {self._here.log(side)})")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5)

    async def _keep_database(self) -> None:
        while self._server is not None:
            await asyncio.to_thread(self._server.wait)
            _say("PostgreSQL ended unexpectedly: starting it again")
            try:
                await asyncio.to_thread(self._start_server)
            except (postgres.PostgresError, ArchiveError) as error:
                _say(str(error))
                await asyncio.sleep(2)

    async def _keep_receiver(self) -> None:
        """The receiver ends with the server; where only it has ended, nobody can commit until it is back."""
        assert self._archive is not None
        while self._receiver is not None:
            await asyncio.to_thread(self._receiver.wait)
            await asyncio.sleep(0.2)
            if self._server is not None and self._server.poll() is None and self._receiver.poll() is not None:
                try:
                    self._receiver = self._archive.receive(self._here.postgres, self._here.log("receiver"))
                except ArchiveError as error:
                    _say(f"the receiver of the log does not start: {error}")
                    await asyncio.sleep(2)

    async def _keep_archive(self, archive: Archive) -> None:
        """A backup that is read again, and a dump, each night; /operations/recovery tells what is wrong with them."""
        while True:
            try:
                await asyncio.to_thread(nightly.keep, archive, self._here.postgres, self._here.log("nightly"))
            except (OSError, ValueError, KeyError) as error:
                # Such as a full disk: the proofs that are missing are an alert by themselves.
                _say(f"what is done each night for recovery could not be: {type(error).__name__}")
            await asyncio.sleep(_LOOKS_EVERY)

    async def _until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _STARTS_WITHIN
        connector = aiohttp.UnixConnector(path=str(self._here.internal_socket))
        async with aiohttp.ClientSession() as public, aiohttp.ClientSession(connector=connector) as internal:
            waiting = [(public, f"{self._here.url}{paths[0]}") for paths in url_map().values()]
            waiting += [(internal, "http://internal/ingest")]
            while waiting:
                waiting = [(session, base) for session, base in waiting if not await _answers(session, base)]
                if asyncio.get_running_loop().time() > deadline:
                    raise InstallationError(f"Not ready within {_STARTS_WITHIN} s: see {self._here.log('public')}.")
                await asyncio.sleep(0.02)


async def _answers(session: aiohttp.ClientSession, base: str) -> bool:
    try:
        async with session.get(f"{base}/health/ready") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False


async def _prepare() -> None:
    """The embedded queue's table; a database that was reset from outside gets it again."""
    connection = await database.connect()
    try:
        for statement in EMBEDDED_SCHEMA:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _run(supervisor: Supervisor, here: Installation, *, play_demo: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    try:
        _say("starting the functions ...")
        writing = asyncio.create_task(_write_practice(here)) if play_demo else None
        starting = asyncio.create_task(supervisor.start())
        interrupted = asyncio.create_task(stopped.wait())
        await asyncio.wait((starting, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            await starting
            if writing is not None:
                await writing
                await demo.show(here, _say)
            _say(f"ready: {here.url}")
            await stopped.wait()
            _say("stopping ...")
        starting.cancel()
        await asyncio.gather(starting, interrupted if stopped.is_set() else asyncio.sleep(0), return_exceptions=True)
    finally:
        await closing.close_all()
        await supervisor.stop()


async def _write_practice(here: Installation) -> None:
    """The demonstration's general practice; without gpg there is none."""
    try:
        await asyncio.to_thread(extract_demo.prepare, here)
    except ExtractError as error:
        _say(f"no general practice in the demonstration: {error}")


def _lock(here: Installation) -> TextIO:
    """Held while this process lives; two supervisors on one folder would harm each other."""
    file = (here.home / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise InstallationError(
            f"{here.home} is in use by a running scripts/up (process {holder}): stop that one, or set CAREFOLIO_HOME."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _check_port(here: Installation) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", here.port))
        except OSError as error:
            raise InstallationError(
                f"Port {here.port} cannot be used ({os.strerror(error.errno or 0)}): "
                f"choose another, as in PORT={here.port + 1 if here.port < 65535 else 8080} scripts/up."
            ) from None


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < _LEAST_DISK:
        raise InstallationError(
            f"Only {free >> 20} MB are free where {home} lies, and {_LEAST_DISK >> 20} are needed: "
            "free some, or set CAREFOLIO_HOME to a folder on another disk."
        )


def _reset(here: Installation) -> None:
    here.postgres.stop_left_over()
    here.postgres.erase()
    for name in ("secrets", "log", "mail", "files", "practice"):
        shutil.rmtree(here.home / name, ignore_errors=True)
    (here.home / demo.FILE).unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the terminal's own program


def _start(here: Installation, *, reset: bool, play_demo: bool) -> None:
    here.home.mkdir(parents=True, exist_ok=True)
    lock = _lock(here)
    _check_disk(here.home)
    _check_port(here)
    if reset:
        _reset(here)
    here.log("any").parent.mkdir(exist_ok=True)
    here.enter()
    here.make_secrets()
    supervisor = Supervisor(here)
    try:
        if supervisor.embedded_database:
            supervisor.start_database()
        migrations.migrate()
        store.install()
        asyncio.run(_prepare())
    except BaseException:
        asyncio.run(supervisor.stop())
        raise
    asyncio.run(_run(supervisor, here, play_demo=play_demo))
    lock.close()


def main() -> None:
    """Parse the command line, start, and end with one sentence where that cannot be."""
    parser = argparse.ArgumentParser("scripts/up", description=__doc__)
    parser.add_argument("--reset", action="store_true", help="start empty: all data in CAREFOLIO_HOME is deleted")
    parser.add_argument("--no-demo", action="store_true", help="no demonstration")
    chosen = parser.parse_args()
    try:
        _start(installation(), reset=chosen.reset, play_demo=not chosen.no_demo)
    except (InstallationError, postgres.PostgresError, ArchiveError, demo.DemonstrationError) as error:
        sys.exit(f"scripts/up: {error}")
    except (asyncpg.DiskFullError, OSError) as error:
        sys.exit(f"scripts/up: {error}: is the disk full, or CAREFOLIO_HOME not yours?")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
