"""A patient's app is told of new results: when he may see them, and as long as he lets it."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
from tests.conftest import unique
from tests.functions.test_subscriptions import Receiver, again, allow, by_topic, receiver
from tests.people_kit import NewApp, People, Visitor

from carefolio.local import load
from carefolio.record import purging

__all__ = ["receiver"]


async def test_a_patients_app_is_told_of_his_results(
    people: People, visitor: Visitor, new_app: NewApp, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """Of another patient's nothing; of what he has to wait for, later; and nothing when he stops the app."""
    other = await people.hospital.registered()
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.cruds offline_access"))).json["access_token"]
    asked = by_topic(f"{receiver.base}/hook", "new-result", content="full-resource")
    made = await app.fhir(token, "Subscription", "POST", asked)
    assert made.status == 201, made.body
    number = made.json["id"]
    assert (await app.fhir(token, f"Subscription/{number}")).json["status"] == "requested"
    await allow(pool, receiver.base)
    await receiver.until(1, lambda call: call.kind == "handshake")
    await asyncio.sleep(0.3)
    await people.hospital.accepted(load.report(other, unique()))
    await people.hospital.accepted(load.report(who.nhs_number, unique()))
    await receiver.until(1, lambda call: call.kind == "event-notification")
    await asyncio.sleep(0.5)
    entries = [entry["resource"] for call in receiver.calls[1:] for entry in call.json["entry"][1:]]
    assert {each["subject"]["reference"] for each in entries} == {f"Patient/{who.record}"}
    result = next(each for each in entries if each["resourceType"] == "Observation")
    # The same once more, as if he had to wait for it.
    receiver.calls.clear()
    row = uuid.UUID(result["id"])
    await pool.execute("UPDATE resource SET available_from = now() + interval '1 hour' WHERE id = $1", row)
    await pool.execute("INSERT INTO record_change (ids, versions) VALUES (ARRAY[$1::uuid], '{1}')", row)
    await pool.execute("UPDATE record_change SET at = now() - interval '1 minute'")
    await again(pool)
    for _ in range(100):
        if await pool.fetchval("SELECT due_at FROM record_change WHERE $1 = ANY(ids)", row):
            break
        await asyncio.sleep(0.05)
    assert receiver.calls == []
    await pool.execute("UPDATE resource SET available_from = now() WHERE id = $1", row)
    await pool.execute("UPDATE record_change SET due_at = now() WHERE $1 = ANY(ids)", row)
    await again(pool)
    [call] = await receiver.until(1)
    assert call.json["entry"][1]["resource"]["id"] == result["id"]
    # He lets the app no more.
    receiver.calls.clear()
    await pool.execute("UPDATE app_grant SET ended_at = now() WHERE client_id = $1", app.client.client_id)
    await people.hospital.accepted(load.report(who.nhs_number, unique()))
    await ends(pool, number)
    assert receiver.calls == []


async def ends(pool: asyncpg.Pool, number: str) -> None:
    """Wait until a subscription is off."""
    status = "SELECT status FROM subscription WHERE logical_id = $1"
    for _ in range(100):
        if await pool.fetchval(status, number) == "off":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the subscription goes on")


async def test_another_grant_of_the_same_app_opens_nothing(
    people: People, visitor: Visitor, new_app: NewApp, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """What is told goes by the grant that the app subscribed with, not by any that lives."""
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.cruds offline_access"))).json["access_token"]
    first = await pool.fetchval("SELECT id FROM app_grant WHERE client_id = $1", app.client.client_id)
    made = await app.fhir(token, "Subscription", "POST", by_topic(f"{receiver.base}/hook", "new-result"))
    await allow(pool, receiver.base)
    await receiver.until(1, lambda call: call.kind == "handshake")
    await app.token(await app.allow("launch/patient patient/Patient.rs offline_access"))
    await pool.execute("UPDATE app_grant SET ended_at = now() WHERE id = $1", first)
    await people.hospital.accepted(load.report(who.nhs_number, unique()))
    await ends(pool, made.json["id"])
    assert len(receiver.calls) == 1


async def test_a_subscription_that_is_purged_tells_nothing(
    people: People, visitor: Visitor, new_app: NewApp, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.cruds offline_access"))).json["access_token"]
    made = await app.fhir(token, "Subscription", "POST", by_topic(f"{receiver.base}/hook", "new-result"))
    await allow(pool, receiver.base)
    await receiver.until(1, lambda call: call.kind == "handshake")
    number = uuid.UUID(made.json["id"])
    await purging.purge(pool, "operator/test", uuid.UUID(who.record), "it was never asked for by him", items=[number])
    assert (await app.fhir(token, f"Subscription/{number}")).status in (404, 410)
    await people.hospital.accepted(load.report(who.nhs_number, unique()))
    await asyncio.sleep(0.5)
    assert await pool.fetchval("SELECT count(*) FROM subscription WHERE id = $1", number) == 0
    assert len(receiver.calls) == 1
