"""A record with items of every label, and everybody who might want to read it."""

from __future__ import annotations

import itertools
import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from carefolio.identity import tokens
from carefolio.record import sharing
from carefolio.record.access import Reader
from carefolio.record.labels import GENERAL, LABELS, MENTAL, SEXUAL, SYSTEM
from tests.conftest import Hospital, NewHospital, unique
from tests.functions.fhir_client import made, observation, send

_R = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}


@dataclass(frozen=True)
class Item:
    """What the hospital's team a1 contributed."""

    id: str
    label: str
    confidential: bool = False
    delayed: bool = False


@dataclass
class Person:
    """A reader with an account; ``own`` of a patient."""

    name: str
    account: uuid.UUID
    organisation: uuid.UUID | None = None
    own: uuid.UUID | None = None
    session: uuid.UUID | None = None

    def reader(self) -> Reader:
        return Reader.of_person(self.account, self.organisation, self.own, patient=self.own)

    def token(self, scope: str = "user/*.cruds", grant: uuid.UUID | None = None) -> str:
        return tokens.issue(
            "app", scope, organisation=self.organisation, account=self.account, record=self.own, patient=self.own,
            grant=grant,
        )  # fmt: skip


@dataclass
class World:
    """A hospital A with teams a1 (which contributed) and a2, an organisation B with team b1, and their people."""

    pool: asyncpg.Pool
    hospital: Hospital
    other: Hospital
    organisation: uuid.UUID
    patient: uuid.UUID
    code: str
    items: list[Item]
    teams: dict[str, uuid.UUID] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)

    async def state(self, state: str) -> None:
        """Bring the record into a sharing state."""
        await self.pool.execute("DELETE FROM sharing WHERE record_id = $1", self.patient)
        await self.pool.execute(
            "UPDATE record SET frozen_at = NULL, frozen_by = NULL, frozen_reason = NULL, sharing_off_at = NULL"
            " WHERE id = $1",
            self.patient,
        )
        labels = {"all": LABELS, "off": LABELS, "frozen": LABELS, "ended": LABELS, "general": (GENERAL,),
                  "sensitive": (MENTAL, SEXUAL), "refused": (), "confidential": LABELS}.get(state)  # fmt: skip
        owner = self.people["patient"].reader()
        if labels is not None:
            grantees = [(self.teams["b1"], "team"), (self.people["individual"].account, "professional"),
                        (self.people["carer"].account, "carer"), (self.people["kin"].account, "carer")]  # fmt: skip
            for grantee, role in grantees:
                await sharing.share(
                    self.pool, owner, self.patient, grantee, role, labels,
                    confidential=state == "confidential" and role != "carer",
                )  # fmt: skip
        if state == "ended":
            await self.pool.execute("UPDATE sharing SET ends_at = now() WHERE record_id = $1", self.patient)
        if state == "off":
            await sharing.switch(self.pool, owner, self.patient, on=False)
        if state == "frozen":
            await sharing.freeze(self.pool, "account/officer", self.patient, "a court says so")

    async def aged(self, years: int) -> None:
        born = datetime.now(UTC) - timedelta(days=365.25 * years + 30)
        await self.pool.execute("UPDATE resource SET date_from = $2 WHERE id = $1", self.patient, born)


async def _account(pool: asyncpg.Pool, name: str, kind: str, **more: Any) -> uuid.UUID:
    columns = {"name": name, "kind": kind, **more}
    number: uuid.UUID = await pool.fetchval(
        f"INSERT INTO account ({', '.join(columns)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(columns)))})"
        " RETURNING id",
        *columns.values(),
    )
    return number


async def new_session(pool: asyncpg.Pool, account: uuid.UUID) -> uuid.UUID:
    """The number of an open session."""
    number: uuid.UUID = await pool.fetchval(
        """
        INSERT INTO session (id, account_id, stage, level, methods) VALUES ($1, $2, 'open', 'strong', '{pwd}')
        RETURNING number
        """,
        secrets.token_bytes(16),
        account,
    )
    return number


@pytest.fixture(scope="module")
async def world(new_hospital: NewHospital, pool: asyncpg.Pool) -> AsyncIterator[World]:
    hospital = await new_hospital(scope="system/*.cruds")
    other = await new_hospital(scope="system/*.cruds")
    code = unique("W")
    value = unique("I")
    patient = await made(hospital, {"resourceType": "Patient", "identifier": [{"system": "urn:w", "value": value}]})
    items = []
    for label, confidential, delayed in itertools.product(LABELS, (False, True), (False, True)):
        security = [{"system": SYSTEM, "code": label}] if label != GENERAL else []
        meta = {"meta": {"security": security + ([_R] if confidential else [])}} if security or confidential else {}
        number = await made(hospital, observation(patient, code=code, **meta))
        changed = observation(patient, value=71, code=code, id=number, **meta)
        assert (await send(hospital, "PUT", f"Observation/{number}", changed)).status == 200
        items.append(Item(number, label, confidential, delayed))
    late = [uuid.UUID(item.id) for item in items if item.delayed]
    for table in ("resource", "resource_history"):
        await pool.execute(f"UPDATE {table} SET available_from = now() + interval '3 days' WHERE id = ANY($1)", late)
    numbers = {
        app.ods_code: await pool.fetchval("SELECT id FROM organisation WHERE ods_code = $1", app.ods_code)
        for app in (hospital, other)
    }
    here = World(pool, hospital, other, numbers[hospital.ods_code], uuid.UUID(patient), code, items)
    for name, app in (("a1", hospital), ("a2", hospital), ("b1", other), ("b2", other)):
        here.teams[name] = await pool.fetchval(
            "INSERT INTO team (organisation_id, name) VALUES ($1, $2) RETURNING id", numbers[app.ods_code], name
        )
    for table in ("resource", "resource_history"):
        await pool.execute(f"UPDATE {table} SET team_id = $2 WHERE patient_id = $1", here.patient, here.teams["a1"])
    stranger = await made(other, {"resourceType": "Patient", "identifier": [{"system": "urn:w", "value": unique()}]})
    carer = await made(other, {"resourceType": "Patient", "identifier": [{"system": "urn:w", "value": unique()}]})
    for name, own in (("patient", patient), ("stranger", stranger), ("carer", carer)):
        number = uuid.UUID(own)
        here.people[name] = Person(name, await _account(pool, name, "patient", record_id=number), own=number)
    here.people["kin"] = Person("kin", await _account(pool, "kin", "carer"))
    for name, app, team in (("contributor", hospital, "a1"), ("colleague", hospital, "a2"), ("member", other, "b1"),
                            ("outsider", other, "b2"), ("individual", other, "b2")):  # fmt: skip
        organisation = numbers[app.ods_code]
        account = await _account(pool, name, "professional", organisation_id=organisation)
        await pool.execute("INSERT INTO account_team (account_id, team_id) VALUES ($1, $2)", account, here.teams[team])
        session = await new_session(pool, account)
        here.people[name] = Person(name, account, organisation=organisation, session=session)
    yield here
    await here.state("all")
