"""Subscriptions as an app and its receiver see them (R4 Subscription; Subscriptions R5 Backport IG 1.1.0)."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from tests.conftest import Hospital, NewHospital, Reply, Running, free_port, unique
from tests.functions.fhir_client import made, observation, patient, send

from carefolio.identity import webhooks
from carefolio.record import delivering

_EXTENSION = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
_TOPIC = "https://fhir.carefolio.uk/SubscriptionTopic/"


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> dict[str, Any]:
        """The status of a notification, by name."""
        return {each["name"]: each for each in self.json["entry"][0]["resource"]["parameter"]}

    @property
    def kind(self) -> str:
        return str(self.told["type"]["valueCode"])

    @property
    def numbers(self) -> list[int]:
        listed = self.json["entry"][0]["resource"]["parameter"]
        return [int(each["part"][0]["valueString"]) for each in listed if each["name"] == "notification-event"]


@dataclass
class Receiver:
    """An app's own server; below ``/slow`` it takes its time, below ``/bad`` it fails while ``bad``."""

    base: str
    bad: int = 500
    calls: list[Call] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        if request.path.startswith("/slow"):
            await asyncio.sleep(20)
        self.calls.append(Call(request.method, request.path, dict(request.headers), await request.read()))
        return web.Response(status=self.bad if request.path.startswith("/bad") else 200)

    async def until(self, number: int, of: Callable[[Call], bool] = lambda _: True) -> list[Call]:
        for _ in range(200):
            found = [call for call in self.calls if of(call)]
            if len(found) >= number:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"{len(found)} of {number} calls")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    found = Receiver(f"http://127.0.0.1:{port}")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield found
    await runner.cleanup()


def subscription(endpoint: str, criteria: str, **channel: Any) -> dict[str, Any]:
    return {
        "resourceType": "Subscription", "status": "requested", "reason": "test", "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"} | channel,
    }  # fmt: skip


def by_topic(endpoint: str, topic: str, *filters: str, content: str = "id-only", **channel: Any) -> dict[str, Any]:
    payload = {"extension": [{"url": f"{_EXTENSION}payload-content", "valueCode": content}]}
    asked = subscription(endpoint, _TOPIC + topic, _payload=payload, **channel)
    if filters:
        extensions = [{"url": f"{_EXTENSION}filter-criteria", "valueString": each} for each in filters]
        asked["_criteria"] = {"extension": extensions}
    return asked


async def allow(pool: asyncpg.Pool, url: str) -> uuid.UUID:
    row = await pool.fetchrow("SELECT id FROM webhook WHERE url = $1 AND ended_at IS NULL", url)
    await webhooks.allow(pool, row["id"], "test", allowed=True)
    return row["id"]


async def status_of(app: Hospital, number: str) -> str:
    return str((await send(app, "GET", f"Subscription/{number}")).json["status"])


async def becomes(app: Hospital, number: str, status: str) -> None:
    for _ in range(200):
        if await status_of(app, number) == status:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{await status_of(app, number)}, not {status}")


async def begun(app: Hospital, pool: asyncpg.Pool, asked: dict[str, Any]) -> str:
    """A subscription at an allowed receiver, when it is active."""
    number = await made(app, asked)
    await allow(pool, webhooks.origin(asked["channel"]["endpoint"]))
    await becomes(app, number, "active")
    return number


@pytest.fixture(scope="module")
async def app(new_hospital: NewHospital) -> Hospital:
    return await new_hospital(scope="system/*.cruds system/Webhook.cds")


async def test_what_r4_says(app: Hospital, receiver: Receiver, pool: asyncpg.Pool, installation: Running) -> None:
    """Nothing before the operator allows it; then the resource comes by PUT to its own address, once; nothing else."""
    code = unique("C")
    number = await made(
        app, subscription(f"{receiver.base}/hook", f"Observation?code={code}", header=["X-Key: s3cret"])
    )
    someone = await made(app, patient())
    await made(app, observation(someone, code=code))
    await asyncio.sleep(0.5)
    assert receiver.calls == []
    assert await status_of(app, number) == "requested"
    listed = json.loads(installation.cli("webhook", "list", "--json").stdout)
    [waiting] = [each for each in listed if each["url"] == receiver.base]
    installation.cli("webhook", "allow", waiting["id"])
    await becomes(app, number, "active")
    wanted = await made(app, observation(someone, code=code))
    await made(app, observation(someone, code=unique("C")))
    [call] = await receiver.until(1)
    assert (call.method, call.path) == ("PUT", f"/hook/Observation/{wanted}")
    assert (call.json["id"], call.headers["X-Key"]) == (wanted, "s3cret")
    await asyncio.sleep(0.3)
    assert len(receiver.calls) == 1
    shown = (await send(app, "GET", f"Subscription/{number}")).json
    assert shown["channel"]["header"] == ["X-Key: ***"]
    # What was read can be written back: nothing is lost by it, and nothing begins anew.
    again = await send(app, "PUT", f"Subscription/{number}", shown)
    assert (again.status, again.json["status"]) == (200, "active")
    await send(app, "PUT", f"Observation/{wanted}", observation(someone, 71, code=code, id=wanted))
    assert (await receiver.until(2))[1].headers["X-Key"] == "s3cret"
    assert (await send(app, "DELETE", f"Subscription/{number}")).status == 204
    await made(app, observation(someone, code=code))
    await asyncio.sleep(0.5)
    assert len(receiver.calls) == 2


async def test_without_payload_it_is_a_call_alone(app: Hospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    asked = subscription(f"{receiver.base}/hook", "Patient?identifier=a|b")
    del asked["channel"]["payload"]
    await begun(app, pool, asked)
    await made(app, {"resourceType": "Patient", "identifier": [{"system": "a", "value": "b"}]})
    [call] = await receiver.until(1)
    assert (call.method, call.path, call.body) == ("POST", "/hook", b"")


@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
async def test_a_topic_tells_in_order_and_signed(
    app: Hospital, receiver: Receiver, pool: asyncpg.Pool, content: str
) -> None:
    """A handshake, then create, update and deletion of one resource, each in its place; as much as was asked for."""
    someone = await made(app, patient())
    number = await made(app, by_topic(f"{receiver.base}/hook", "record-change", f"Observation?patient={someone}",
                                      content=content))  # fmt: skip
    receiver_id = await allow(pool, receiver.base)
    listed = await app.request("POST", f"/api/v1/webhooks/{receiver_id}/secret", headers=await app.bearer())
    secret = base64.b64decode(listed.json["secret"].removeprefix("whsec_"))
    await becomes(app, number, "active")
    wanted = await made(app, observation(someone))
    assert (await send(app, "PUT", f"Observation/{wanted}", observation(someone, 71, id=wanted))).status == 200
    assert (await send(app, "DELETE", f"Observation/{wanted}")).status == 204
    for _ in range(100):
        if sum(len(call.numbers) for call in receiver.calls) == 3:
            break
        await asyncio.sleep(0.05)
    first, *rest = receiver.calls
    assert first.kind == "handshake"
    assert [each for call in rest for each in call.numbers] == [1, 2, 3]
    assert {call.kind for call in rest} == {"event-notification"}
    last = rest[-1]
    signed = webhooks.signature(secret, last.headers["webhook-id"], last.headers["webhook-timestamp"], last.body)
    assert last.headers["webhook-signature"] == f"v1,{signed}"
    assert last.told["subscription"]["valueReference"]["reference"].endswith(f"/Subscription/{number}")
    parts = last.told["notification-event"]["part"]
    focus = [part["valueReference"]["reference"] for part in parts if part["name"] == "focus"]
    assert [each.rpartition("/R4/")[2] for each in focus] == ([] if content == "empty" else [f"Observation/{wanted}"])
    entries = [entry for call in rest for entry in call.json["entry"][1:]]
    assert [entry["request"]["method"] for entry in entries][-1:] == ([] if content == "empty" else ["DELETE"])
    held = [entry["resource"]["id"] for entry in entries if "resource" in entry]
    assert set(held) <= {wanted}
    assert bool(held) == (content == "full-resource" and len(rest) > 1)


async def test_topics_tell_of_what_they_are_about(app: Hospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    """A preliminary result is no news; its final version is; an appointment is for who asked for appointments."""
    someone = await made(app, patient())
    for topic in ("new-result", "appointment", "document"):
        await begun(app, pool, by_topic(f"{receiver.base}/{topic}", topic))
    report = {"resourceType": "DiagnosticReport", "status": "preliminary", "code": {"text": "x"},
              "subject": {"reference": f"Patient/{someone}"}}  # fmt: skip
    number = await made(app, report)
    await send(app, "PUT", f"DiagnosticReport/{number}", report | {"id": number, "status": "final"})
    visit = {"resourceType": "Appointment", "status": "booked", "start": "2027-01-01T09:00:00Z",
             "end": "2027-01-01T09:10:00Z",
             "participant": [{"actor": {"reference": f"Patient/{someone}"}, "status": "accepted"}]}  # fmt: skip
    booked = await made(app, visit)
    letter = await made(app, {"resourceType": "DocumentReference", "status": "current",
                              "subject": {"reference": f"Patient/{someone}"},
                              "content": [{"attachment": {"url": "https://example.org/x"}}]})  # fmt: skip
    news = await receiver.until(3, lambda call: call.kind == "event-notification")
    await asyncio.sleep(0.3)
    found = {call.path: call.json["entry"][1]["fullUrl"].rpartition("/R4/")[2] for call in news}
    assert found == {
        "/new-result": f"DiagnosticReport/{number}", "/appointment": f"Appointment/{booked}",
        "/document": f"DocumentReference/{letter}",
    }  # fmt: skip
    assert len(receiver.calls) == 6


async def test_what_is_closed_meanwhile_is_not_told(app: Hospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    """Consent is asked when it is sent: of a record that was frozen since, the event has a number alone."""
    someone = await made(app, patient())
    asked = by_topic(f"{receiver.base}/bad", "record-change", f"Observation?patient={someone}", content="full-resource")
    receiver.bad = 200
    number = await begun(app, pool, asked)
    receiver.bad = 500
    await made(app, observation(someone))
    await receiver.until(1, lambda call: call.kind == "event-notification")
    await pool.execute("UPDATE record SET frozen_at = now() WHERE id = $1", uuid.UUID(someone))
    receiver.bad = 200
    receiver.calls.clear()
    await again(pool)
    [call] = await receiver.until(1)
    assert call.numbers == [1]
    assert len(call.json["entry"]) == 1
    assert someone not in call.body.decode()
    # Nor is there an event of what is written then.
    await pool.execute("UPDATE record SET frozen_at = NULL WHERE id = $1", uuid.UUID(someone))
    assert (await told_of(app, number)).json["entry"][1]["request"]["method"] == "POST"


async def told_of(app: Hospital, number: str, **asked: Any) -> Reply:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    return await send(app, "GET", f"Subscription/{number}/$events?{query}")


async def again(pool: asyncpg.Pool) -> None:
    """As if the pauses were over, and the clock came by."""
    await pool.execute("UPDATE subscription SET paused_until = NULL")
    await pool.execute("UPDATE webhook SET paused_until = NULL")
    await delivering.sweep(pool)
    from carefolio.cloud import outbox

    outbox.kick()


async def test_a_receiver_that_fails_is_in_error_and_comes_back(
    app: Hospital, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """It is left alone, then in error; nothing is lost; the first that is taken makes it active again."""
    someone = await made(app, patient())
    asked = by_topic(f"{receiver.base}/bad", "record-change", f"Observation?patient={someone}")
    asked["channel"]["extension"] = [{"url": f"{_EXTENSION}timeout", "valueUnsignedInt": 1}]
    number = await made(app, asked)
    await allow(pool, receiver.base)
    await becomes(app, number, "error")
    assert "status 500" in (await send(app, "GET", f"Subscription/{number}")).json["error"]
    receiver.bad = 200
    await again(pool)
    await becomes(app, number, "active")
    receiver.bad = 503
    await made(app, observation(someone))
    await receiver.until(1, lambda call: call.kind == "event-notification")
    await made(app, observation(someone))
    await asyncio.sleep(1.2)
    # One failure pauses it, and what comes meanwhile waits.
    assert sum(call.kind == "event-notification" for call in receiver.calls) == 1
    await again(pool)
    await becomes(app, number, "error")
    stands = (await send(app, "GET", f"Subscription/{number}/$status")).json["entry"][0]["resource"]["parameter"]
    stands = {each["name"]: each for each in stands}
    assert (stands["status"]["valueCode"], stands["events-since-subscription-start"]["valueString"]) == ("error", "2")
    assert (await told_of(app, number)).status == 200
    receiver.bad = 200
    receiver.calls.clear()
    await again(pool)
    await becomes(app, number, "active")
    assert [each for call in await receiver.until(1) for each in call.numbers] == [1, 2]
    late = (await told_of(app, number, eventsSinceNumber=2, content="full-resource")).json
    assert [entry["resource"]["resourceType"] for entry in late["entry"]] == ["Parameters", "Observation"]
    assert "error" not in (await send(app, "GET", f"Subscription/{number}")).json


async def test_a_slow_receiver_delays_nobody(app: Hospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    """Twenty subscriptions of a receiver that does not answer, and one of another that does."""
    other = Receiver(f"http://localhost:{receiver.base.rpartition(':')[2]}", calls=receiver.calls)
    someone = await made(app, patient())
    for number in range(20):
        await made(app, subscription(f"{receiver.base}/slow/{number}", f"Observation?patient={someone}"))
    await allow(pool, receiver.base)
    quick = await begun(app, pool, subscription(f"{other.base}/quick", f"Observation?patient={someone}"))
    for _ in range(100):
        if await pool.fetchval("SELECT count(*) FROM subscription WHERE listening AND webhook_id IN "
                               "(SELECT id FROM webhook WHERE url = $1)", receiver.base) == 20:  # fmt: skip
            break
        await asyncio.sleep(0.05)
    began = asyncio.get_running_loop().time()
    await made(app, observation(someone))
    await receiver.until(1, lambda call: call.path.startswith("/quick"))
    assert asyncio.get_running_loop().time() - began < 5
    assert await status_of(app, quick) == "active"


async def test_who_asks_anew_gets_a_handshake_and_misses_nothing(
    app: Hospital, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """By the same once more, and by another path; what was waiting comes after it."""
    someone = await made(app, patient())
    asked = by_topic(f"{receiver.base}/bad", "record-change", f"Observation?patient={someone}")
    receiver.bad = 200
    number = await begun(app, pool, asked)
    receiver.bad = 500
    await made(app, observation(someone))
    await receiver.until(1, lambda call: call.kind == "event-notification")
    receiver.calls.clear()
    moved = copy.deepcopy(asked) | {"id": number, "status": "requested"}
    moved["channel"]["endpoint"] = f"{receiver.base}/moved"
    assert (await send(app, "PUT", f"Subscription/{number}", moved)).json["status"] == "requested"
    await becomes(app, number, "active")
    calls = await receiver.until(2)
    assert [(call.kind, call.path) for call in calls] == [("handshake", "/moved"), ("event-notification", "/moved")]
    assert calls[1].numbers == [1]


async def test_a_secret_stays_with_who_gave_it_and_where_it_went(app: Hospital, installation: Running) -> None:
    """Another client of the organisation, or another endpoint, needs the secret itself."""
    number = await made(app, subscription("https://example.org/x", "Patient?name=x", header=["X-Key: s3cret"]))
    shown = (await send(app, "GET", f"Subscription/{number}")).json
    shown["channel"]["endpoint"] = "https://example.org/stolen"
    assert (await send(app, "PUT", f"Subscription/{number}", shown)).status == 422
    options = ("--organisation", app.ods_code, "--scope", "system/*.cruds", "--json")
    client = json.loads(installation.cli("client", "add", unique("other"), *options).stdout)
    form = {"grant_type": "client_credentials"}
    secret = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    token = await app.request("POST", "/oauth2/token", data=form, headers={"Authorization": f"Basic {secret}"})
    shown["channel"]["endpoint"] = "https://example.org/x"
    headers = {"Authorization": f"Bearer {token.json['access_token']}", "Content-Type": "application/fhir+json"}
    reply = await app.request("PUT", f"/fhir/R4/Subscription/{number}", data=json.dumps(shown), headers=headers)
    assert reply.status == 422, reply.body


async def test_what_cannot_be_asked_at_present_comes_back(
    app: Hospital, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """A value set that is away: an error that says so, and active with the next that is taken."""
    url, someone = f"urn:x:{unique('v')}", await made(app, patient())
    listed = {"resourceType": "ValueSet", "url": url, "status": "active", "compose": {
        "include": [{"system": "http://loinc.org", "concept": [{"code": "29463-7"}]}]}}  # fmt: skip
    of_set = await made(app, listed)
    number = await begun(app, pool, by_topic(f"{receiver.base}/hook", "record-change", f"Observation?code:in={url}"))
    await send(app, "DELETE", f"ValueSet/{of_set}")
    await made(app, observation(someone))
    await becomes(app, number, "error")
    await made(app, listed)
    wanted = await made(app, observation(someone))
    [call] = await receiver.until(1, lambda call: call.kind == "event-notification")
    assert call.json["entry"][1]["fullUrl"].endswith(wanted)
    await becomes(app, number, "active")


async def test_receivers_that_nobody_wants_are_forgotten(app: Hospital, pool: asyncpg.Pool) -> None:
    """Wrong addresses do not use up the organisation's own; a receiver of events is not one of records."""
    hosts = [f"https://{unique('h').lower()}.example.org" for _ in range(25)]
    for host in hosts:
        number = await made(app, subscription(f"{host}/x", "Patient?name=x"))
        assert (await send(app, "DELETE", f"Subscription/{number}")).status == 204
    assert await pool.fetchval("SELECT count(*) FROM webhook WHERE url = ANY($1)", hosts) == 0
    url = f"{hosts[0]}/pings"
    body = json.dumps({"url": url, "events": ["message.held"]})
    headers = await app.bearer() | {"Content-Type": "application/json"}
    assert (await app.request("POST", "/api/v1/webhooks", data=body, headers=headers)).status == 201
    await allow(pool, url)
    number = await made(app, subscription(f"{hosts[0]}/records", "Patient?name=x"))
    await asyncio.sleep(0.5)
    assert await status_of(app, number) == "requested"


async def test_heartbeat_and_end(app: Hospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    asked = by_topic(f"{receiver.base}/hook", "document", content="empty")
    asked["channel"]["extension"] = [{"url": f"{_EXTENSION}heartbeat-period", "valueUnsignedInt": 60}]
    number = await begun(app, pool, asked)
    await pool.execute("UPDATE subscription SET last_at = now() - interval '2 minutes' WHERE logical_id = $1", number)
    await again(pool)
    [beat] = await receiver.until(1, lambda call: call.kind == "heartbeat")
    assert beat.told["status"]["valueCode"] == "active"
    await pool.execute("UPDATE subscription SET ends_at = now() WHERE logical_id = $1", number)
    await again(pool)
    await becomes(app, number, "off")


async def test_who_has_ended_is_told_nothing(new_hospital: NewHospital, receiver: Receiver, pool: asyncpg.Pool) -> None:
    app = await new_hospital(scope="system/*.cruds")
    someone = await made(app, patient())
    number = await begun(app, pool, subscription(f"{receiver.base}/hook", f"Observation?patient={someone}"))
    await pool.execute("UPDATE client SET ended_at = now() WHERE organisation_id = (SELECT organisation_id FROM"
                       " subscription WHERE logical_id = $1)", number)  # fmt: skip
    reader = await pool.fetchrow("SELECT * FROM subscription WHERE logical_id = $1", number)
    await pool.execute(
        "INSERT INTO subscription_event VALUES ($1, 1, now(), 'Patient', $2, 1, 'create')", reader["id"],
        uuid.UUID(someone),
    )  # fmt: skip
    await pool.execute("UPDATE subscription SET events = 1 WHERE id = $1", reader["id"])
    await again(pool)
    for _ in range(100):
        if await pool.fetchval("SELECT status FROM subscription WHERE id = $1", reader["id"]) == "off":
            break
        await asyncio.sleep(0.05)
    assert receiver.calls == []
    assert await pool.fetchval("SELECT status FROM subscription WHERE id = $1", reader["id"]) == "off"


async def test_another_organisation_is_told_nothing(
    app: Hospital, new_hospital: NewHospital, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """Everything of every type, and still nothing that is another's; and its subscription is not seen by others."""
    other = await new_hospital(scope="system/*.cruds")
    number = await begun(other, pool, by_topic(f"{receiver.base}/hook", "record-change", content="full-resource"))
    someone = await made(app, patient())
    await made(app, observation(someone))
    mine = await made(other, patient())
    calls = await receiver.until(2)
    await asyncio.sleep(0.3)
    assert someone not in b"".join(call.body for call in receiver.calls).decode()
    assert mine in calls[1].body.decode()
    for path in ("$status", "$events"):
        assert (await send(app, "GET", f"Subscription/{number}/{path}")).status == 404
    assert number not in (await send(app, "GET", "Subscription/$status")).body.decode()
    assert (await send(other, "GET", "Subscription/$status?status=active")).json["total"] == 1


async def test_mail_names_no_patient(app: Hospital, pool: asyncpg.Pool, installation: Running) -> None:
    someone = await made(app, patient())
    address = f"{unique('m').lower()}@example.org"
    asked = subscription(f"mailto:{address}", f"Observation?patient={someone}", type="email")
    await begun(app, pool, asked)
    await made(app, observation(someone))
    folder = installation.here.home / "mail"
    for _ in range(100):
        letters = [text for each in folder.glob("*.eml") if address in (text := each.read_text())]
        if len(letters) == 2:
            break
        await asyncio.sleep(0.05)
    assert any("1 change that an app subscribed to" in each for each in letters)
    assert not any(someone in each for each in letters)


@pytest.mark.parametrize(
    ("change", "status", "element"),
    [
        ({"criteria": "Nothing?x=y"}, 422, "Subscription.criteria"),
        ({"criteria": "AuditEvent?patient=1"}, 422, "Subscription.criteria"),
        ({"criteria": "https://example.org/topic"}, 422, "Subscription.criteria"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://10.0.0.1/x"}}, 422, "Subscription.channel.endpoint"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://metadata.google.internal/"}}, 422,
         "Subscription.channel.endpoint"),
        ({"channel": {"type": "rest-hook", "endpoint": "file:///etc/passwd"}}, 422, "Subscription.channel.endpoint"),
        ({"channel": {"type": "rest-hook"}}, 422, "Subscription.channel.endpoint"),
        ({"channel": {"type": "email", "endpoint": "mailto:a@b.uk,c@d.uk"}}, 422, "Subscription.channel.endpoint"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "header": ["a: b\r\nc: d"]}}, 422,
         "Subscription.channel.header"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "header": ["Host: b"]}}, 422,
         "Subscription.channel.header"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "header": ["Webhook-Signature: v1"]}},
         422, "Subscription.channel.header"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "header": ["X-Key: ***"]}}, 422,
         "Subscription.channel.header"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "header": [None, "a: b"],
                      "_header": [{"id": "x"}, None]}}, 422, "Subscription.channel.header"),
        ({"channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/a\x7f"}}, 422,
         "Subscription.channel.endpoint"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/" + "x" * 3000}}, 422,
         "Subscription.channel.endpoint"),
        ({"channel": {"endpoint": "https://example.org/x", "_type": {"extension": [{"url": "x", "valueCode": "y"}]}}},
         422, "Subscription.channel.type"),
        ({"end": "9999-12-31T23:59:59-14:00"}, 422, "Subscription.end"),
        ({"channel": {"type": "rest-hook", "endpoint": "https://example.org/x", "payload": "text/plain"}}, 422,
         "Subscription.channel.payload"),
    ],
)  # fmt: skip
async def test_what_is_refused(app: Hospital, change: Any, status: int, element: str) -> None:
    reply = await send(app, "POST", "Subscription", subscription("https://example.org/x", "Patient?name=x") | change)
    assert reply.status == status, reply.body
    assert reply.json["issue"][0]["expression"] == [element]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channel": {"type": "websocket"}}, "websocket"),
        ({"criteria": "Observation?nonsense=1"}, "Observation?nonsense"),
        ({"criteria": "Observation?subject:Patient.name=x"}, "only parameters of the resource itself"),
        ({"criteria": "Observation?code:text=%00"}, "a character that nothing has"),
    ],
)
async def test_what_is_kept_and_says_that_nothing_comes_of_it(app: Hospital, change: Any, says: str) -> None:
    reply = await send(app, "POST", "Subscription", subscription("https://example.org/x", "Patient?name=x") | change)
    assert (reply.status, reply.json["status"]) == (201, "error")
    assert says in reply.json["error"]


async def test_a_scope_bounds_what_can_be_subscribed_to(new_hospital: NewHospital) -> None:
    app = await new_hospital(scope="system/Subscription.cruds system/Patient.rs")
    reply = await send(app, "POST", "Subscription", subscription("https://example.org/x", "Observation?code=x"))
    assert reply.status == 403, reply.body
    reply = await send(app, "POST", "Subscription", by_topic("https://example.org/x", "appointment"))
    assert reply.status == 403, reply.body
