"""Fetching from a real SFTP server that has bad days (domain notes B3), and files that do not vouch for themselves."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from carefolio.cloud import files
from carefolio.cloud.settings import settings
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, fetching, landing, loading, sftp, status, steps
from carefolio.extracts.agreements import Agreement, AgreementError, Wanted
from carefolio.extracts.sftp import FetchError
from carefolio.local import extract_demo, sftp_server
from tests.conftest import Running, free_port
from tests.extracts.kit import Practice
from tests.extracts.servers import SSHD, Line, Server, openssh, small

pytestmark = pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not on this machine")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sftp"
    folder.mkdir()
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with small(root) as made:
        yield made


@pytest.fixture
def extract(pool: asyncpg.Pool, root: Path) -> Practice:
    """A practice whose first batch lies on the server, some folders down."""
    made = Practice(pool, root / "IM1" / "sftp")
    made.base()
    for at in range(40):
        patient = made.patient(f"p{at}")
        for number in range(30):
            made.observation(patient, f"o{number}", "16", AssociatedText="said " * 20)
    made.write("bulk")
    return made


async def registered(extract: Practice, server: Server, **more: object) -> Agreement:
    # Once a year: the installation's clock must not fetch before the test does.
    wanted = Wanted(extract.name, extract.guid, host="127.0.0.1", port=server.port, host_keys=[server.host_key],
                    username=server.user, ssh_key=server.key, schedule="0 0 1 1 *")  # fmt: skip
    extract.agreement = await agreements.add(extract.pool, dataclasses.replace(wanted, **more))  # type: ignore[arg-type]
    return extract.agreement


async def loaded(extract: Practice, count: int = 1) -> None:
    """Wait for the installation's own queue to have loaded so many batches."""
    assert extract.agreement is not None
    for _ in range(600):
        shown = await status.overview(extract.pool, extract.agreement)
        done = [batch["status"] for batch in shown["batches"]]
        assert "failed" not in done, shown
        if done.count("loaded") == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(shown)


async def test_what_lies_there_is_fetched_and_loaded(extract: Practice, server: Server) -> None:
    agreement = await registered(extract, server)
    made = await fetching.fetch(extract.pool, agreement, look_again=0.1)
    assert (made.files, made.batches, made.alerts) == (21, ["20240101020000"], [])
    await loaded(extract)
    assert await extract.pool.fetchval(
        "SELECT count(*) FROM extract_row r JOIN extract_practice p ON p.number = r.practice"
        " WHERE p.agreement_id = $1 AND r.kind = 16", agreement.id,
    ) == 1200  # fmt: skip
    # Nothing new, and nothing is fetched again.
    assert (await fetching.fetch(extract.pool, agreement, look_again=0.1)).files == 0
    extract.sharing()
    extract.patient("p0")
    extract.write()
    assert (await fetching.fetch(extract.pool, agreement, look_again=0.1)).files == 21
    await loaded(extract, 2)


@pytest.mark.skipif(not Path(SSHD).exists(), reason="OpenSSH's server is not on this machine")
async def test_from_opensshs_own_server(extract: Practice, root: Path, tmp_path: Path) -> None:
    with openssh(root, tmp_path / "sshd") as server:
        agreement = await registered(extract, server)
        assert (await fetching.fetch(extract.pool, agreement, look_again=0.1)).files == 21
    await loaded(extract)


async def test_a_line_that_breaks_anywhere_is_gone_on_from(
    extract: Practice, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "SEGMENT", 40_000)
    line = Line(server.port)
    agreement = await registered(extract, dataclasses.replace(server, port=line.port))
    brought = []
    land = landing.land

    def counting(folder: str, size: int, blocks: landing.Blocks) -> bytes:
        def counted(start: int, end: int) -> Iterator[bytes]:
            brought.append((folder, start))
            yield from blocks(start, end)

        return land(folder, size, counted)

    monkeypatch.setattr(landing, "land", counting)
    broken = 0
    for after in (0, 700, 3_000, 20_000, 60_000, 90_000, 150_000, 200_000, 300_000, None):
        line.cut_after = after
        try:
            await fetching.fetch(extract.pool, agreement, look_again=0.05)
        except FetchError:
            broken += 1
    assert broken >= 6
    await loaded(extract)
    # A segment that has landed is not brought again.
    assert len(brought) - len(set(brought)) <= broken
    line.close()


async def test_a_server_that_stalls_is_left(extract: Practice, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "STALL_SECONDS", 1)
    line = Line(server.port, silent_after=120_000)
    agreement = await registered(extract, dataclasses.replace(server, port=line.port))
    with pytest.raises(FetchError, match="stalled"):
        await fetching.fetch(extract.pool, agreement, look_again=0.05)
    assert "stalled" in ((await agreements.find(extract.pool, agreement.name)).trouble or "")
    line.silent_after = None
    await fetching.fetch(extract.pool, agreement, look_again=0.05)
    await loaded(extract)
    line.close()


async def test_another_host_key_is_refused_before_anything_is_said(
    extract: Practice, server: Server, installation: Running
) -> None:
    _, other = sftp_server.new_key()
    agreement = await registered(extract, dataclasses.replace(server, host_key=other))
    with pytest.raises(FetchError, match="not the pinned one") as failure:
        await fetching.fetch(extract.pool, agreement, look_again=0.05)
    assert failure.value.refused
    shown = installation.cli("emis", "status", agreement.name).stdout
    assert "the server's host key is not the pinned one" in shown
    done = installation.cli("emis", "fetch", agreement.name, check=False)
    assert (done.returncode, "not the pinned one" in done.stderr) == (1, True)


async def test_a_user_who_is_not_let_in(extract: Practice, server: Server) -> None:
    key, _ = sftp_server.new_key()
    agreement = await registered(extract, dataclasses.replace(server, key=key))
    with pytest.raises(FetchError, match="does not let this user in"):
        await fetching.fetch(extract.pool, agreement, look_again=0.05)


async def test_nobody_there(extract: Practice, server: Server) -> None:
    agreement = await registered(extract, dataclasses.replace(server, port=free_port()))
    with pytest.raises(FetchError, match="no connection"):
        await fetching.fetch(extract.pool, agreement, look_again=0.05)


async def test_a_file_that_is_still_being_written_waits(extract: Practice, server: Server, root: Path) -> None:
    agreement = await registered(extract, server)
    file = next(root.rglob("*CareRecord_Observation_*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    stop = threading.Event()

    def grow() -> None:
        at = 1000
        while not stop.is_set() and at < len(whole):
            at += 400
            file.write_bytes(whole[:at])
            time.sleep(0.01)

    writer = threading.Thread(target=grow)
    writer.start()
    made = await fetching.fetch(extract.pool, agreement, look_again=0.3)
    assert made.batches == []
    stop.set()
    writer.join()
    file.write_bytes(whole)
    await fetching.fetch(extract.pool, agreement, look_again=0.05)
    await loaded(extract)


async def test_half_a_batch_and_a_missed_night_are_told(extract: Practice, server: Server, root: Path) -> None:
    agreement = await registered(extract, server, stale_hours=1)
    missing = next(root.rglob("*Admin_Patient_2*"))
    elsewhere = missing.rename(root.parent / missing.name)
    assert (await fetching.fetch(extract.pool, agreement, look_again=0.05)).batches == []
    await extract.pool.execute(
        "UPDATE extract_batch SET seen_at = now() - interval '7 hours' WHERE agreement_id = $1", agreement.id
    )
    await extract.pool.execute(
        "UPDATE agreement SET created_at = now() - interval '2 hours' WHERE id = $1", agreement.id
    )
    alerts = (await fetching.fetch(extract.pool, agreement, look_again=0.05)).alerts
    assert alerts == [
        "no batch has come for 2 hours",
        "batch 20240101020000 is only partly there, for more than 6 hours",
    ]
    elsewhere.rename(missing)
    assert (await fetching.fetch(extract.pool, agreement, look_again=0.05)).batches == ["20240101020000"]
    await loaded(extract)


async def test_a_server_that_lists_nothing(extract: Practice, server: Server, root: Path) -> None:
    shutil.rmtree(root / "IM1")
    agreement = await registered(extract, server)
    made = await fetching.fetch(extract.pool, agreement, look_again=0.05)
    assert (made.files, made.batches) == (0, [])


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[Path, extract_demo.Keys, extract_demo.Keys]]:
    with tempfile.TemporaryDirectory(prefix="gpg-") as ring:
        home = Path(ring)
        yield (
            home,
            extract_demo.new_keys(home, "Us", "us@example.org"),
            extract_demo.new_keys(home, "Them", "them@example.org"),
        )


@pytest.mark.parametrize("fault", ["none", "truncated", "flipped", "unsigned", "wrong key", "no key", "not OpenPGP"])
async def test_a_file_that_does_not_vouch_for_itself_stops_its_batch(
    extract: Practice, root: Path, keys: tuple[Path, extract_demo.Keys, extract_demo.Keys], fault: str
) -> None:
    home, ours, theirs = keys
    signer = None if fault == "unsigned" else theirs.fingerprint
    encrypt = extract_demo.encrypter(home, theirs.fingerprint if fault == "wrong key" else ours.fingerprint, signer)
    for file in list(root.rglob("*.csv")):
        encrypt(file)
        file.unlink()
    spoilt = next(root.rglob("*CareRecord_Observation_*"))
    content = spoilt.read_bytes()
    if fault == "truncated":
        spoilt.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        spoilt.write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    elif fault == "not OpenPGP":
        spoilt.write_bytes(b"hello " * 1000)
    private = [] if fault == "no key" else [ours.private.encode()]
    wanted = Wanted(extract.name, extract.guid, decrypt_keys=private, verify_keys=[theirs.public.encode()])
    extract.agreement = agreement = await agreements.add(extract.pool, wanted)
    if fault == "none":
        await loading.load_folder(extract.pool, agreement, root)
        shown = (await status.overview(extract.pool, agreement))["batches"][0]
        assert {file["signed_by"] for file in shown["files"]} == {theirs.fingerprint}
        return
    with pytest.raises(ExtractError):
        await loading.load_folder(extract.pool, agreement, root)
    [batch] = (await status.overview(extract.pool, agreement))["batches"]
    assert (batch["status"], batch["reason"].startswith("decrypt:")) == ("failed", True)
    assert not await extract.pool.fetchval(
        "SELECT count(*) FROM extract_row r JOIN extract_practice p ON p.number = r.practice WHERE p.agreement_id = $1",
        agreement.id,
    )
    if fault == "truncated":
        # The sender puts it right: what was fetched is thrown away, and it goes on.
        spoilt.write_bytes(content)
        await steps.retry(extract.pool, agreement, batch["stamp"], again=True)
        await loading.load_folder(extract.pool, agreement, root)
        assert (await status.overview(extract.pool, agreement))["batches"][0]["status"] == "loaded"


async def test_agreements_are_checked(pool: asyncpg.Pool) -> None:
    good = Wanted("checked", uuid.uuid4(), host="sftp.example.org", host_keys=["ssh-ed25519 AAAA"], username="u",
                  password=b"secret")  # fmt: skip
    for change, reason in (
        ({"name": "Not good"}, "small letters"), ({"host_keys": []}, "host key is needed"), ({"port": 0}, "port"),
        ({"host_keys": ["nonsense"]}, "known_hosts"), ({"password": b""}, "either an SSH key or a password"),
        ({"ssh_key": b"x", "password": b""}, "not an SSH private key"), ({"schedule": "every day"}, "cron"),
        ({"decrypt_keys": [b"x"]}, "OpenPGP"), ({"roll_off": "burn"}, "roll-off"), ({"practices": ("?",)}, "ODS"),
        ({"stale_hours": 0}, "hours"),
    ):  # fmt: skip
        with pytest.raises(AgreementError, match=reason):
            await agreements.add(pool, dataclasses.replace(good, **change))  # type: ignore[arg-type]
    made = await agreements.add(pool, good)
    assert (await agreements.add(pool, dataclasses.replace(good, port=2222))).port == 2222
    with pytest.raises(AgreementError, match="another GUID"):
        await agreements.add(pool, dataclasses.replace(good, guid=uuid.uuid4()))
    assert made.name not in [each.name for each in await agreements.due(pool)]
    await agreements.end(pool, "checked")
    assert "checked" not in [each.name for each in await agreements.due(pool)]


async def test_a_rotated_key_and_a_passphrase(
    extract: Practice, root: Path, keys: tuple[Path, extract_demo.Keys, extract_demo.Keys]
) -> None:
    home, ours, theirs = keys
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "right"]
    subprocess.run([*gpg, "--quick-gen-key", "locked@example.org", "default", "default", "never"], check=True)
    locked = subprocess.run([*gpg, "--armor", "--export-secret-keys", "locked@example.org"], check=True,
                            capture_output=True).stdout  # fmt: skip
    for number, file in enumerate(sorted(root.rglob("*.csv"))):
        # Half of them by the key that is on its way out.
        recipient = "locked@example.org" if number % 2 else ours.fingerprint
        extract_demo.encrypter(home, recipient, theirs.fingerprint)(file)
        file.unlink()
    wanted = Wanted(extract.name, extract.guid, decrypt_keys=[ours.private.encode(), locked], passphrase=b"wrong",
                    verify_keys=[theirs.public.encode()])  # fmt: skip
    extract.agreement = agreement = await agreements.add(extract.pool, wanted)
    with pytest.raises(ExtractError, match="the passphrase is wrong"):
        await loading.load_folder(extract.pool, agreement, root)
    [batch] = (await status.overview(extract.pool, agreement))["batches"]
    await agreements.add(extract.pool, dataclasses.replace(wanted, decrypt_keys=None, passphrase=b"right"))
    await steps.retry(extract.pool, agreement, batch["stamp"], again=False)
    await loading.load_fetched(extract.pool, agreement)
    [batch] = (await status.overview(extract.pool, agreement))["batches"]
    assert batch["status"] == "loaded"


async def test_a_full_disk(
    extract: Practice, root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path_factory.mktemp("small")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user mounts nothing")
    try:
        here = dataclasses.replace(settings(), files_url=str(small))
        monkeypatch.setattr(files, "settings", lambda: here)
        extract.agreement = agreement = await agreements.add(extract.pool, Wanted(extract.name, extract.guid))
        with pytest.raises((ExtractError, OSError), match="No space left"):
            await loading.load_folder(extract.pool, agreement, root)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        for batch in (await status.overview(extract.pool, agreement))["batches"]:
            if batch["status"] == "failed":
                await steps.retry(extract.pool, agreement, batch["stamp"], again=False)
        await loading.load_folder(extract.pool, agreement, root)
        [batch] = (await status.overview(extract.pool, agreement))["batches"]
        assert batch["status"] == "loaded"
        left = list(small.rglob("*.part"))
        assert not left
    finally:
        subprocess.run(["umount", str(small)], check=True)
