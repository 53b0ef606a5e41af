"""The portal at its doors: whose pages are whose, what a lock holds, what a form keeps."""

from __future__ import annotations

import asyncpg
from tests.conftest import NewHospital, nhs
from tests.people_kit import NewVisitor, People, Visitor
from tests.record.people import Person, end

from carefolio.identity import registry, sessions, teams
from carefolio.identity.accounts import by_email


async def test_a_session_for_one_patient_opens_nothing_else(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    """By a hospital's hand-over: that record, and neither lists nor inboxes nor the glass of another."""
    who = await people.patient(new_visitor())
    other = await people.registered()
    doctor = await people.professional(visitor)
    account = await by_email(pool, doctor.email)
    assert account is not None
    await pool.execute("UPDATE account SET roles = '{administrator,operator}' WHERE id = $1", account.id)
    await pool.execute("UPDATE session SET patient_id = $2::uuid WHERE account_id = $1", account.id, who.record)
    assert (await visitor.get(f"/patients/{who.record}")).status == 200
    for path in ("/patients", "/inbox", "/invite", "/emergency", "/organisation", "/operator",
                 f"/patients/{other.record}"):  # fmt: skip
        assert (await visitor.get(path)).status == 403, path
    await visitor.get(f"/patients/{who.record}/add/file")
    page = await visitor.submit(f"/patients/{other.record}/glass", reason="unconscious in A&E")
    assert page.status == 403
    assert not await pool.fetchval("SELECT count(*) FROM sharing WHERE grantee = $1", account.id)


async def test_what_was_written_is_kept_when_the_session_has_ended(
    people: People, visitor: Visitor, pool: asyncpg.Pool
) -> None:
    """A long message, a session that has run out: the words are shown again."""
    who = await people.patient(visitor)
    await visitor.get("/record/add/journal")
    age = sessions.IDLE + 60
    await pool.execute(
        "UPDATE session SET seen_at = now() - make_interval(secs => $2) WHERE account_id = ("
        "SELECT id FROM account WHERE email = $1)", who.email, float(age),
    )  # fmt: skip
    page = await visitor.submit("/record/add/journal", text="All that <b>I</b> wrote")
    assert page.status == 401
    assert "All that &lt;b&gt;I&lt;/b&gt; wrote" in page.text


async def test_a_link_cannot_say_that_something_was_done(people: People, visitor: Visitor) -> None:
    """Only what this session did a moment ago is said."""
    await people.patient(visitor)
    assert "Nothing is shared any more" not in (await visitor.get("/record/sharing?note=stopped")).text
    await visitor.get("/record/sharing/stop")
    page = await visitor.submit("/record/sharing/switch", on="false")
    assert "Nothing is shared any more" in page.text
    await visitor.get("/record/sharing")
    assert (await visitor.submit("/record/sharing/switch")).status == 400


async def test_rubbish_in_addresses_is_no_error_of_ours(people: People, visitor: Visitor) -> None:
    """Digits that are none, dates that are none, places that are none."""
    await people.patient(visitor)
    for path in ("/record/sharing/access-log?before=%C2%B2", "/record/tests?after=x&from=y&to=2026-99-01",
                 "/record/trend?system=&code=%2C%7C", "/record?as-of=2999-01-01", "/record/items/Odd/1",
                 "/record/files/DocumentReference/1/%C2%B2", "/record/nothing", "/record/messages/x",
                 "/record/items/Observation/1/versions?as-of=2026-01-01"):  # fmt: skip
        assert (await visitor.get(path)).status in (200, 404), path


async def test_a_wrong_turn_keeps_the_menu(people: People, visitor: Visitor) -> None:
    """What is not there, or not his: said in the portal's frame, in which he finds his way."""
    await people.patient(visitor)
    for path, status in (("/record/items/Observation/1", 404), ("/organisation", 403), ("/privacy", 403)):
        page = await visitor.get(path)
        assert page.status == status
        assert ("Sign out" in page.text, "Test results" in page.text) == (True, status == 404), path
        assert ("There is no such page" in page.text) is (status == 404)


async def test_who_decides_on_a_doubt_sees_both_sides(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool, new_hospital: NewHospital
) -> None:
    """The message beside the record, where his hospital has registered the patient; else the message alone."""
    doctor = await people.professional(visitor)
    account = await by_email(pool, doctor.email)
    assert account is not None
    await pool.execute("UPDATE account SET roles = '{administrator}' WHERE id = $1", account.id)
    known = Person(nhs(), family="Recorded")
    await end(people.hospital, known.message())
    held = await people.hospital.accepted(Person(known.number, family="Posted", born="19700102").message("A08"))
    assert held["status"] == "held"
    page = (await visitor.get(f"/organisation/messages/{held['id']}")).text
    assert "Is it one person?" in page
    assert "<strong>Robin Recorded</strong>" in page
    assert "<strong>1 January 1970</strong>" in page
    assert page.count('class="tag">differs') == 2
    assert await pool.fetchval(
        "SELECT count(*) FROM audit WHERE message_id = $1 AND patient_id IS NOT NULL AND actor = $2",
        held["id"], f"account/{account.id}",
    ) == 1  # fmt: skip
    # A record that is frozen is closed to him as to everybody.
    await pool.execute("UPDATE record SET frozen_at = now() WHERE id = $1::uuid",
                       (await people.hospital.patient(known.number))["id"])  # fmt: skip
    page = (await visitor.get(f"/organisation/messages/{held['id']}")).text
    assert ("Robin Posted" in page, "Robin Recorded" in page) == (True, False)
    # Somebody who guesses a number is not told whose it is.
    elsewhere = Person(nhs(), family="Elsewhere")
    await end(await new_hospital(), elsewhere.message())
    guessed = await people.hospital.accepted(Person(elsewhere.number, family="Guessed", born="19800101").message())
    assert guessed["status"] == "held"
    page = (await visitor.get(f"/organisation/messages/{guessed['id']}")).text
    assert "Robin Guessed" in page
    assert "Elsewhere" not in page
    assert "1970" not in page


async def test_a_record_is_opened_in_an_emergency_by_number_and_birth_date(
    people: People, visitor: Visitor, pool: asyncpg.Pool
) -> None:
    """Both must be right, and a reason; then it is open, and noted."""
    who = await people.registered()
    owner = await registry.organisation_id(pool, people.hospital.ods_code)
    away = await teams.add(pool, owner, "test", "Away of " + who.email, "general", ["general"])
    for table in ("resource", "resource_history"):
        await pool.execute(f"UPDATE {table} SET team_id = $2 WHERE patient_id = $1::uuid", who.record, away.id)
    await people.professional(visitor)
    await visitor.get("/emergency")
    good = {"nhs_number": who.nhs_number, "born": who.born, "reason": "unconscious in A&E, no next of kin"}
    for wrong in ({"born": "1901-01-01"}, {"nhs_number": "9990009999"}, {"reason": "x"}):
        page = await visitor.submit("/emergency", **good | wrong)
        assert page.status == 400, wrong
    page = await visitor.submit("/emergency", **good)
    assert page.path == f"/patients/{who.record}", page.text
    assert "You broke the glass" in page.text
