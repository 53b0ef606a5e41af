"""Signing in with a password, registering, forgetting, changing: what people and their enemies do."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
import uuid

import asyncpg
import pytest
from tests.conftest import Hospital, unique
from tests.people_kit import PASSWORD, NewVisitor, People, Somebody, Visitor, add_authenticator

from carefolio.identity import retention


async def test_a_patient_opens_his_account_by_an_invitation(people: People, visitor: Visitor) -> None:
    who = await people.registered()
    page = await people.signed_in(visitor, who)
    assert page.path == "/account"
    assert who.name in page.text
    assert "a code by e-mail" in page.text


@pytest.mark.parametrize("wrong", [{"born": "1901-01-01"}, {"code": "BCDF-GHJK-2345"}, {"born": ""}])
async def test_an_invitation_needs_code_and_date_of_birth(
    people: People, visitor: Visitor, wrong: dict[str, str]
) -> None:
    who, code = await people.invited()
    who.born = wrong.get("born", who.born)
    page = await people.register(visitor, who, wrong.get("code", code))
    assert "do not belong together" in page.errors


async def test_five_wrong_dates_end_an_invitation(people: People, visitor: Visitor) -> None:
    who, code = await people.invited()
    born, who.born = who.born, "1901-01-01"
    for _ in range(5):
        await people.register(visitor, who, code)
    who.born = born
    assert "do not belong together" in (await people.register(visitor, who, code)).errors


async def test_an_invitation_is_used_once(people: People, visitor: Visitor) -> None:
    who, code = await people.invited()
    assert (await people.register(visitor, who, code)).query["note"] == "registered"
    assert "do not belong together" in (await people.register(visitor, who, code)).errors


async def test_registering_with_an_address_in_use_tells_nothing_and_writes_to_its_owner(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    known = await people.patient(new_visitor())
    who, code = await people.invited()
    who.email = known.email
    assert (await people.register(visitor, who, code)).query["note"] == "registered"
    await people.mailbox.wait(known.email, "have a Carefolio account already")
    record = uuid.UUID(who.record)
    assert await pool.fetchval("SELECT count(*) FROM account WHERE record_id = $1", record) == 0


@pytest.mark.parametrize("password", ["short", "password123", "aaaaaaaaaaaaaaa", "Carefolio2026", "qwertyuiop"])
async def test_a_password_that_is_easily_guessed_is_refused(people: People, visitor: Visitor, password: str) -> None:
    who, code = await people.invited()
    assert "password" in (await people.register(visitor, who, code, password)).errors.lower()


async def test_known_and_unknown_addresses_get_the_same_answer_in_the_same_time(
    people: People, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    who = await people.registered()
    pages, times = {}, {}
    for email in (who.email, f"{unique('nobody').lower()}@example.org"):
        taken = []
        for _ in range(7):
            await pool.execute("DELETE FROM throttle")
            visitor = new_visitor()
            await visitor.get("/login")
            started = time.perf_counter()
            page = await visitor.submit("/login", email=email, password="not the password")
            taken.append(time.perf_counter() - started)
        pages[email] = re.sub(r'value="[^"]*"', "", page.text)
        times[email] = statistics.median(taken)
    first, second = pages.values()
    assert first == second
    # Within noise: hashing takes tens of milliseconds, so an answer without it would be a fraction.
    assert 0.5 < times[who.email] / min(times.values()) < 3
    for path in ("/login/forgotten",):
        answers = []
        for email in (who.email, "nobody@example.org"):
            visitor = new_visitor()
            await visitor.get(path)
            answers.append((await visitor.submit(path, email=email)).url)
        assert answers[0] == answers[1]


async def test_guessing_is_slowed_down_and_the_owners_own_browser_is_not(
    people: People, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    await pool.execute("DELETE FROM throttle")
    mine, thief = new_visitor(), new_visitor()
    who = await people.patient(mine)
    await asyncio.gather(*(guess(new_visitor(), who) for _ in range(12)))
    page = await thief.sign_in(who.email)
    assert page.status == 429
    assert "too many attempts" in page.errors
    # The right password does not help the thief, and the owner's browser is known.
    assert (await mine.sign_in(who.email)).path == "/login/second"
    await pool.execute("UPDATE throttle SET blocked_until = now() WHERE blocked_until > now()")
    assert (await thief.sign_in(who.email)).path == "/login/second"
    await pool.execute("DELETE FROM throttle")


async def guess(visitor: Visitor, who: Somebody) -> int:
    return (await visitor.sign_in(who.email, "not the password")).status


async def test_of_many_guesses_at_once_only_a_few_are_tried(
    people: People, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    await pool.execute("DELETE FROM throttle")
    who = await people.registered()
    answers = await asyncio.gather(*(guess(new_visitor(), who) for _ in range(30)))
    assert sorted(answers).count(400) == 5
    assert answers.count(429) == 25
    await pool.execute("DELETE FROM throttle")


async def test_a_code_is_good_once_and_in_its_session_alone(
    people: People, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    who, one, two = await people.registered(), new_visitor(), new_visitor()
    await one.sign_in(who.email)
    code = await people.mailbox.code(who.email)
    await two.sign_in(who.email)
    await people.mailbox.code(who.email, but=1)
    assert "not right" in (await two.submit("/login/second", kind="code", code=code)).errors
    assert (await one.submit("/login/second", kind="code", code=code)).path == "/record"
    # Six digits are not guessed: after five the session waits.
    for _ in range(6):
        page = await two.submit("/login/second", kind="code", code="000000")
    assert page.status == 429
    await pool.execute("DELETE FROM throttle")


async def test_before_the_second_factor_nothing_is_open(people: People, visitor: Visitor) -> None:
    who = await people.registered()
    await visitor.sign_in(who.email)
    for path in ("/account", "/account/password", "/account/email", "/account/authenticator", "/oauth2/device"):
        assert (await visitor.get(path)).path == "/login/second"
    reply = await visitor.post_json("/account/passkeys/options", {})
    assert reply.status in (303, 403) or b"/login" in reply.body


async def test_an_authenticator_code_is_good_once(people: People, visitor: Visitor, new_visitor: NewVisitor) -> None:
    who = await people.professional(visitor)
    other = new_visitor()
    await people.pool.execute("UPDATE account SET totp_step = 0 WHERE email = $1", who.email)
    code = who.code()
    await other.sign_in(who.email)
    assert (await other.submit("/login/second", kind="totp", code=code, next="/account")).path == "/account"
    third = new_visitor()
    await third.sign_in(who.email)
    assert third.page
    assert "not right" in (await third.submit("/login/second", kind="totp", code=code)).errors
    for late in (-120, 120):
        assert "not right" in (await third.submit("/login/second", kind="totp", code=who.code(late))).errors


async def test_a_professional_needs_a_strong_factor(people: People, visitor: Visitor, pool: asyncpg.Pool) -> None:
    who = await people.professional(visitor)
    page = await visitor.get("/account")
    assert "Where you are signed in" in page.text
    assert (await visitor.submit("/account/authenticator/remove")).status == 403
    await visitor.get("/account")
    await visitor.submit("/login/out")
    # With a strong factor a code by e-mail is neither sent nor taken.
    await visitor.sign_in(who.email)
    assert (await visitor.submit("/login/second/code")).status == 403
    await visitor.get("/login/second")
    assert "not right" in (await visitor.submit("/login/second", kind="code", code="123456")).errors
    people.hospital.installation.cli("account", "require-factor", who.email)
    before = len(await people.mailbox.letters(who.email))
    page = await visitor.sign_in(who.email)
    # The password alone adds no factor: the mailbox is asked too.
    assert page.path == "/login/second"
    await people.mailbox.wait(who.email, "is your Carefolio code", but=1)
    assert len(await people.mailbox.letters(who.email)) > before
    page = await visitor.submit("/login/second", kind="code", code=await people.mailbox.code(who.email, but=1))
    assert "One more step" in page.text
    assert "Where you are signed in" not in page.text
    assert (await visitor.get("/oauth2/device")).path == "/account"
    await add_authenticator(visitor)
    assert "Where you are signed in" in (await visitor.get("/account")).text


async def test_a_forgotten_password_is_replaced_and_everything_else_ends(
    people: People, visitor: Visitor, new_visitor: NewVisitor
) -> None:
    who = await people.patient(visitor)
    other = new_visitor()
    await other.get("/login/forgotten")
    assert (await other.submit("/login/forgotten", email=who.email.upper())).query["note"] == "sent"
    letter = await people.mailbox.wait(who.email, "new password")
    token = re.search(r"token=(\S+)", letter["body"]).group(1)  # type: ignore[union-attr]
    await other.get(f"/login/reset?token={token}")
    assert "at least" in (await other.submit("/login/reset", token=token, password="short")).errors
    assert (await other.submit("/login/reset", token=token, password="marble otter caravan")).query["note"] == "reset"
    assert (await other.submit("/login/reset", token=token, password="marble otter caravan")).errors
    assert (await visitor.get("/account")).path == "/login"
    assert (await other.sign_in(who.email)).errors
    assert (await other.sign_in(who.email, "marble otter caravan")).path == "/login/second"
    await people.mailbox.wait(who.email, "password was changed")


async def test_an_address_changes_when_both_say_yes(people: People, visitor: Visitor, new_visitor: NewVisitor) -> None:
    who = await people.patient(visitor)
    new = f"{unique('new').lower()}@example.org"
    await visitor.get("/account/email")
    assert (await visitor.submit("/account/email", email=new)).query["note"] == "email"
    links = [
        re.search(r"token=(\S+)", (await people.mailbox.wait(to, "onfirm"))["body"]).group(1)  # type: ignore[union-attr]
        for to in (who.email, new)
    ]
    other = new_visitor()
    await other.get(f"/account/email/confirm?token={links[1]}")
    assert "other address" in (await other.submit("/account/email/confirm", token=links[1])).text
    await other.get(f"/account/email/confirm?token={links[1]}")
    assert (await other.submit("/account/email/confirm", token=links[1])).status == 400
    assert (await other.sign_in(new)).errors
    await other.get(f"/account/email/confirm?token={links[0]}")
    assert "new address" in (await other.submit("/account/email/confirm", token=links[0])).text
    assert (await other.sign_in(new)).path == "/login/second"
    await people.mailbox.wait(who.email, "was changed")


async def test_an_address_of_somebody_else_cannot_be_taken(
    people: People, visitor: Visitor, new_visitor: NewVisitor
) -> None:
    who, other = await people.patient(visitor), await people.registered()
    await visitor.get("/account/email")
    assert (await visitor.submit("/account/email", email=other.email)).query["note"] == "email"
    letter = await people.mailbox.wait(who.email, "Confirm that")
    token = re.search(r"token=(\S+)", letter["body"]).group(1)  # type: ignore[union-attr]
    await visitor.get(f"/account/email/confirm?token={token}")
    # The answer does not tell that the address is somebody's.
    assert "other address" in (await visitor.submit("/account/email/confirm", token=token)).text
    assert (await visitor.sign_in(who.email)).path == "/login/second"
    assert not await people.mailbox.letters("Confirm your new")


async def test_sessions_are_seen_and_ended(people: People, visitor: Visitor, new_visitor: NewVisitor) -> None:
    who, other = await people.patient(visitor), new_visitor()
    await people.signed_in(other, who)
    page = await visitor.get("/account")
    number = re.search(r'/account/sessions/end".*?name="number" value="([^"]+)"', page.text, re.DOTALL)
    assert number
    await visitor.submit("/account/sessions/end", number=number.group(1))
    assert (await other.get("/account")).path == "/login"
    assert (await visitor.get("/account")).path == "/account"


async def test_a_session_has_a_new_name_after_signing_in_and_ends_when_idle(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    who = await people.registered()
    await visitor.sign_in(who.email)
    half = visitor.cookie("__Host-session")
    code = await people.mailbox.code(who.email)
    await visitor.submit("/login/second", kind="code", code=code)
    assert half != visitor.cookie("__Host-session")
    thief = new_visitor()
    async with thief.http.get(f"{thief.base}/account", headers={"Cookie": f"__Host-session={half}"}) as answer:
        assert answer.url.path == "/login"
    account = await pool.fetchval("SELECT id FROM account WHERE email = $1", who.email)
    await pool.execute("UPDATE session SET seen_at = now() - interval '31 minutes' WHERE account_id = $1", account)
    assert (await visitor.get("/account")).path == "/login"
    await people.signed_in(visitor, who)
    await pool.execute(
        "UPDATE session SET created_at = now() - interval '12 hours 1 minute' WHERE account_id = $1", account
    )
    assert (await visitor.get("/account")).path == "/login"


async def test_cookies_and_pages_are_what_a_browser_guards(visitor: Visitor) -> None:
    page = await visitor.get("/login")
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith("__Host-visitor=")
    for part in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"):
        assert part.casefold() in cookie.casefold()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/login", "/login/second", "/login/out", "/login/forgotten", "/login/reset", "/login/register",
             "/account/password", "/account/email", "/account/sessions/end", "/account/apps/end",
             "/account/authenticator", "/account/passkeys/remove", "/oauth2/device", "/account/email/confirm"],
)  # fmt: skip
async def test_no_form_is_taken_from_elsewhere(people: People, visitor: Visitor, path: str) -> None:
    await people.patient(visitor)
    page = await visitor.get("/account")
    token = page.hidden()["form_token"]
    for origin, sent in ((visitor.base, ""), (visitor.base, "0" * 40), ("https://evil.example", token)):
        async with visitor.http.post(
            visitor.base + path, data={"form_token": sent}, headers={"Origin": origin}, allow_redirects=False
        ) as answer:
            assert answer.status == 403


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_nobody_is_sent_to_another_site(people: People, visitor: Visitor, back: str) -> None:
    await people.patient(visitor)
    page = await visitor.get(f"/login?next={back}")
    assert page.path == "/record"


async def test_an_operator_sees_unlocks_and_ends(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool, hospital: Hospital
) -> None:
    await pool.execute("DELETE FROM throttle")
    who, cli = await people.patient(visitor), hospital.installation.cli
    await asyncio.gather(*(guess(new_visitor(), who) for _ in range(8)))
    assert who.email in cli("security", "events", "--suspicious").stdout
    assert (await new_visitor().sign_in(who.email)).status == 429
    cli("account", "unlock", who.email)
    assert (await new_visitor().sign_in(who.email)).path == "/login/second"
    assert "sign_in_failed" in cli("account", "show", who.email).stdout
    cli("account", "end-sessions", who.email)
    assert (await visitor.get("/account")).path == "/login"
    cli("account", "end", who.email)
    assert (await new_visitor().sign_in(who.email)).errors
    assert "no account" in cli("account", "show", who.email, check=False).stderr
    await pool.execute("DELETE FROM throttle")


async def test_what_has_run_out_is_forgotten(people: People, pool: asyncpg.Pool, visitor: Visitor) -> None:
    who = await people.patient(visitor)
    account = await pool.fetchval("SELECT id FROM account WHERE email = $1", who.email)
    await pool.execute("UPDATE session SET created_at = now() - interval '31 days' WHERE account_id = $1", account)
    assert await retention.forget(pool) > 0
    assert await pool.fetchval("SELECT count(*) FROM session WHERE account_id = $1", account) == 0


async def test_neither_secrets_nor_people_are_in_the_logs(people: People, visitor: Visitor) -> None:
    who = await people.patient(visitor)
    logs = people.hospital.installation.logs()
    for private in (who.email, who.name, PASSWORD, who.nhs_number, visitor.cookie("__Host-session")):
        assert private not in logs


async def test_every_account_page_survives_rubbish(people: People, visitor: Visitor) -> None:
    await people.patient(visitor)
    await visitor.get("/account")
    for path in ("/account/sessions/end", "/account/apps/end", "/account/passkeys/remove", "/account/apps/open",
                 "/account/authenticator", "/login/second", "/login/role", "/login/pair", "/login/email"):  # fmt: skip
        for value in ("\x00", "é" * 3000, "'; DROP TABLE account; --", "%00", "{{7*7}}"):
            fields = dict.fromkeys(("number", "client_id", "sealed", "code", "role", "token", "nhs_number"), value)
            await visitor.get("/account")
            page = await visitor.submit(path, **fields)
            assert page.status < 500, (path, value, page.text)


async def test_of_many_at_once_one_has_the_invitation_and_one_the_code(
    people: People, visitor: Visitor, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    who, code = await people.invited()
    browsers = [new_visitor() for _ in range(6)]
    pages = await asyncio.gather(*(people.register(browser, who, code) for browser in browsers))
    assert [page.query.get("note") for page in pages].count("registered") == 1
    doctor = await people.professional(visitor)
    for browser in browsers:
        await browser.sign_in(doctor.email)
    await pool.execute("UPDATE account SET totp_step = 0 WHERE email = $1", doctor.email)
    now = doctor.code()
    tried = await asyncio.gather(
        *(browser.submit("/login/second", kind="totp", code=now, next="/account") for browser in browsers[:4])
    )
    assert [page.path for page in tried].count("/account") == 1
    await pool.execute("DELETE FROM throttle")
