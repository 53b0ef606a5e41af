"""A message is acknowledged when a copy of it lies in another region; what a recovery lost is put back from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import Hospital, basic, nhs, unique

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity.senders import Sender, authenticate
from carefolio.local import load
from carefolio.record.intake import Answer, take_in
from carefolio.recovery import copies


@pytest.fixture
def place(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process keeps copies."""
    monkeypatch.setenv("COPIES_URL", str(tmp_path / "copies"))
    settings.cache_clear()
    yield tmp_path / "copies"
    monkeypatch.delenv("COPIES_URL")
    settings.cache_clear()


@pytest.fixture
async def sender(hospital: Hospital, pool: Pool) -> Sender:
    return await authenticate(pool, basic(hospital.sender["username"], hospital.sender["password"]), "127.0.0.1")


def there(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


async def lost(
    pool: Pool, database: asyncpg.Pool, sender: Sender, place: Path, address: str = ""
) -> tuple[Answer, bytes, datetime]:
    """A message that was taken in, and a database that was brought back to before it."""
    for _ in range(20):
        raw, at = load.registration(nhs(), unique("CP")), datetime.now(UTC)
        answer = await take_in(pool, sender, raw, address, at, production=False)
        number = answer.message_id
        try:
            await database.execute("DELETE FROM outbox WHERE convert_from(data, 'UTF8') LIKE $1", f"%{number}%")
            await database.execute("DELETE FROM message_waits WHERE message_id = $1", number)
            await database.execute("DELETE FROM message WHERE id = $1", number)
        except asyncpg.ForeignKeyViolationError:
            # Ingest was faster than that: it is in a record already.
            (place / next(each for each in there(place) if each.name == str(number))).unlink()
            continue
        return answer, raw, at
    raise AssertionError("ingest is always faster")


async def test_what_was_lost_is_put_back_as_it_was_acknowledged(
    pool: Pool, database: asyncpg.Pool, sender: Sender, place: Path, hospital: Hospital
) -> None:
    """With its id and its acknowledgement: sent again it is the duplicate that it would have been."""
    answer, raw, before = await lost(pool, database, sender, place, "127.0.0.1")
    [copy] = there(place)
    assert copy.name == str(answer.message_id)
    trial = await copies.put_back(pool, str(place), before - timedelta(minutes=1), apply=False)
    assert trial.put_back == 1
    assert await database.fetchval("SELECT count(*) FROM message WHERE id = $1", answer.message_id) == 0
    done = await copies.put_back(pool, str(place), before - timedelta(minutes=1))
    assert (done.copies, done.there, done.put_back, done.refused) == (1, 0, 1, ())
    row = await hospital.settled(load_control(raw))
    assert (row["id"], bytes(row["ack"]), bytes(row["raw"]), row["received_at"]) == (
        answer.message_id, answer.ack, raw, before,
    )  # fmt: skip
    assert row["status"] == "applied"
    again = await take_in(pool, sender, raw, "127.0.0.1", datetime.now(UTC), production=False)
    assert (again.duplicate, again.ack, again.message_id) == (True, answer.ack, answer.message_id)
    assert (await copies.put_back(pool, str(place), before - timedelta(minutes=1))).put_back == 0


def load_control(raw: bytes) -> str:
    return raw.split(b"|")[9].decode()


async def test_no_copy_no_acknowledgement(pool: Pool, sender: Sender, place: Path) -> None:
    """The bucket is away: the sender is told to try again, and then gets the first acknowledgement, with a copy."""
    raw = load.registration(nhs(), unique("CP"))
    place.write_text("no folder")
    with pytest.raises(copies.CopyError):
        await take_in(pool, sender, raw, "127.0.0.1", datetime.now(UTC), production=False)
    place.unlink()
    answer = await take_in(pool, sender, raw, "127.0.0.1", datetime.now(UTC), production=False)
    assert (answer.code, answer.duplicate) == ("AA", True)
    [copy] = there(place)
    assert copy.name[:36] == str(answer.message_id)
    # Sent once more: who may only add a copy writes over none.
    await take_in(pool, sender, raw, "127.0.0.1", datetime.now(UTC), production=False)
    assert {copy.name[:36] for copy in there(place)} == {str(answer.message_id)}


async def test_where_the_other_region_is_away_the_copy_lies_nearer(
    pool: Pool,
    sender: Sender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    """A lost region does not stop the other: an alert, and nobody waits for it again at once."""
    monkeypatch.setenv("COPIES_URL", f"{tmp_path}/away {tmp_path}/near")
    settings.cache_clear()
    (tmp_path / "away").write_text("no folder")
    try:
        for _ in range(2):
            raw = load.registration(nhs(), unique("CP"))
            answer = await take_in(pool, sender, raw, "", datetime.now(UTC), production=False)
            assert answer.code == "AA"
        told = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
        assert [each["event"] for each in told if each["severity"] == "ERROR"] == ["copy_failed"]
        assert len(there(tmp_path / "near")) == 2
    finally:
        monkeypatch.delenv("COPIES_URL")
        settings.cache_clear()


async def test_what_was_sent_again_before_it_was_put_back_is_not_missing(
    pool: Pool, database: asyncpg.Pool, sender: Sender, place: Path
) -> None:
    answer, raw, now = await lost(pool, database, sender, place)
    again = await take_in(pool, sender, raw, "", datetime.now(UTC), production=False)
    assert again.message_id != answer.message_id
    done = await copies.put_back(pool, str(place), now)
    assert (done.copies, done.there, done.put_back) == (2, 2, 0)


async def test_a_copy_that_is_spoilt_or_nobodys_is_named_and_the_others_are_put_back(
    pool: Pool, database: asyncpg.Pool, sender: Sender, place: Path
) -> None:
    now = datetime.now(UTC)
    made = [(await lost(pool, database, sender, place))[0] for _ in range(3)]
    spoilt, strange, _ = there(place)
    spoilt.write_bytes(spoilt.read_bytes()[5:])
    head, _, rest = strange.read_bytes().partition(b"\n")
    strange.write_bytes(json.dumps(json.loads(head) | {"sender": str(made[0].message_id)}).encode() + b"\n" + rest)
    done = await copies.put_back(pool, str(place), now - timedelta(minutes=1))
    assert done.put_back == 1
    assert sorted(name[-36:] for name in done.refused) == sorted((spoilt.name, strange.name))


async def test_a_copy_whose_bytes_changed_is_not_taken_in(
    pool: Pool, database: asyncpg.Pool, sender: Sender, place: Path
) -> None:
    """What is put back into somebody's record is what his hospital sent."""
    _, _, now = await lost(pool, database, sender, place)
    [copy] = there(place)
    copy.write_bytes(copy.read_bytes().replace(b"Robin", b"Rodin"))
    done = await copies.put_back(pool, str(place), now - timedelta(minutes=1))
    assert (done.put_back, len(done.refused)) == (0, 1)
