"""The EMIS part of scripts/bench: decrypting, loading, a night's changes, and SFTP beside OpenSSH's own."""

from __future__ import annotations

import getpass
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from carefolio.emis.openpgp import Keyring
from carefolio.emis.rows import Rows, text_of
from carefolio.emis.tables import tables
from carefolio.local import extract_demo, practice, sftp_server

CLI = Path(__file__).parents[1] / ".venv/bin/carefolio"
_SSHD = "/usr/sbin/sshd"
_TABLES = ("Agreements_SharingOrganisation", "Coding_ClinicalCode", "Coding_DrugCode", "Admin_Organisation",
           "Admin_UserInRole", "Admin_Patient", "CareRecord_Observation")  # fmt: skip
Row = Callable[[str, str, str], None]


def measure(environment: dict[str, str], row: Row, patients: int, runs: int = 3) -> None:
    """Print the rows of README's table. ``patients`` have 500 observations each."""
    size = practice.Size(patients, 500)
    count = patients * size.observations
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="gpg-") as ring:
        ours = extract_demo.new_keys(Path(ring), "Bench", "bench@example.org")
        encrypt = extract_demo.encrypter(Path(ring), ours.fingerprint)
        bulk, night = Path(folder, "bulk"), Path(folder, "night")
        _write(bulk, "bulk", "20261120020000", practice.bulk(size), 1, encrypt)
        _write(night, "delta", "20261121020000", practice.delta(size, 1, 0.01), 2, encrypt)
        key = Path(folder, "key.asc")
        key.write_text(ours.private)
        file = next(bulk.glob("*CareRecord_Observation_2*"))
        rate = statistics.median(_parsed(file, ours.private, count) for _ in range(runs))
        row("decrypt and parse an encrypted Observation file", f"{rate:,.0f} rows/s", "150,000/s")
        _run(environment, "agreement", "add", "bench", "--guid", str(practice.AGREEMENT), "--decrypt-key", str(key))
        with _watched() as most:
            first = _timed(environment, bulk)
        row(f"encrypted Observation file to searchable, {count:,} rows", f"{count / first:,.0f} rows/s", "12,000/s")
        row("largest process meanwhile", f"{most[0] >> 20} MB", "300 MB")
        second = _timed(environment, night)
        row("a delta with 1% of the observations changed, of the bulk's time", f"{second / first:.1%}", "2%")
        if Path(_SSHD).exists():
            mine, theirs = _sftp(Path(folder), runs)
            row("SFTP download on loopback, of OpenSSH's sftp in the same run", f"{mine / theirs:.0%}", "70%")


def _write(
    folder: Path, kind: str, stamp: str, rows: dict[str, Any], processing: int, encrypt: practice.Encrypt
) -> None:
    kept = {table: rows[table] for table in _TABLES if table in rows}
    practice.write_batch(folder, kind, stamp, kept, processing=processing, encrypt=encrypt)


def _parsed(file: Path, private: str, count: int) -> float:
    """Rows per second of gpg and the reader together, with a pipe between them as the loader has it."""
    reading, writing = os.pipe()
    seen = 0

    def read() -> None:
        nonlocal seen
        with os.fdopen(reading, "rb") as plain, text_of(plain) as text:
            seen = sum(1 for _ in Rows(tables()["CareRecord_Observation"], text))

    with tempfile.TemporaryDirectory(prefix="gpg-") as home, file.open("rb") as encrypted:
        keyring = Keyring(Path(home))
        keyring.add(private)
        started = time.perf_counter()
        reader = threading.Thread(target=read)
        reader.start()
        keyring.decrypt(encrypted, lambda block: os.write(writing, block), "file")
        os.close(writing)
        reader.join()
    assert seen == count
    return count / (time.perf_counter() - started)


def _run(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([CLI, "emis", *arguments, "--json"], env=environment, check=True, capture_output=True)


def _timed(environment: dict[str, str], folder: Path) -> float:
    started = time.perf_counter()
    _run(environment, "load", str(folder), "--agreement", "bench")
    return time.perf_counter() - started


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The most memory (bytes) that any one of our Python processes had to itself, looked at each half second."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for each in psutil.process_iter(["cmdline"]):
                line = " ".join(each.info["cmdline"] or ())
                if ".venv/bin" in line and "bench.py" not in line:
                    try:
                        most[0] = max(most[0], each.memory_info().rss)
                    except psutil.Error:
                        continue

    watcher = threading.Thread(target=look)
    watcher.start()
    yield most
    over.set()
    watcher.join()


def _sftp(folder: Path, runs: int) -> tuple[float, float]:
    """Bytes per second by our session and by OpenSSH's client, from one server of OpenSSH's."""
    from carefolio.extracts import sftp
    from carefolio.extracts.agreements import Agreement

    large = folder / "large"
    with large.open("wb") as out:
        for _ in range(256):
            out.write(b"0123456789abcdef" * 65536)
    size = large.stat().st_size
    host, public = sftp_server.new_key()
    user, user_public = sftp_server.new_key()
    for name, content in (("host", host), ("user", user), ("allowed", user_public.encode() + b"\n")):
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/allowed\n"
        f"PidFile {folder}/pid\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    agreement = Agreement(0, "bench", practice.AGREEMENT, "127.0.0.1", port, (public,), getpass.getuser(), str(folder),
                          "0 * * * *", (), (), "keep", 36, None, None, None, None)  # fmt: skip
    theirs, mine = [], []
    try:
        for _ in range(runs):
            started = time.perf_counter()
            subprocess.run(
                ["sftp", "-q", "-P", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no",
                 "-o", "UserKnownHostsFile=/dev/null", f"{getpass.getuser()}@127.0.0.1:{large}", str(folder / "got")],
                check=True, capture_output=True,
            )  # fmt: skip
            theirs.append(size / (time.perf_counter() - started))
            started = time.perf_counter()
            with sftp.session(agreement, user, b"", b"") as session, (folder / "mine").open("wb") as out:
                for block in session.blocks("large", 0, size):
                    out.write(block)
            mine.append(size / (time.perf_counter() - started))
    finally:
        server.terminate()
        server.wait()
    return statistics.median(mine), statistics.median(theirs)
