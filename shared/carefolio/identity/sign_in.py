"""Signing in with e-mail address and password, and what belongs to it: the second factor, a forgotten password, another
address.

Nothing here tells whether an address has an account: the answers, and what is done before them, are the same.
"""

from __future__ import annotations

import hmac
import ipaddress
import uuid
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import (
    accounts,
    factors,
    grants,
    letters,
    one_time,
    passwords,
    sealed,
    security_events,
    sessions,
    throttle,
)
from carefolio.identity.accounts import Account, AccountError, email_key
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.sessions import Session

_RESET_SECONDS = 30 * 60
_CONFIRM_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Browser:
    """Who is at the door: address, user agent, and the device cookie that a sign-in left here."""

    address: str
    agent: str
    device: str = ""
    name: str = ""
    in_app: bool = False


class RefusedError(Exception):
    """``wait`` seconds, 0 where something was wrong."""

    def __init__(self, wait: int = 0) -> None:
        super().__init__()
        self.wait = wait


async def with_password(pool: Pool, email: str, password: str, browser: Browser) -> str:
    """A session that awaits its second factor: the cookie's value. Raises RefusedError."""
    key = email_key(email)[:254]
    account = await accounts.by_email(pool, key)
    if is_device_of(account, browser.device):
        limited = [(throttle.PASSWORD, f"{key} at {browser.device}")]
    else:
        limited = [
            (throttle.ADDRESS, browser.address),
            (throttle.PASSWORD, f"{key} from {network(browser.address)}"),
            (throttle.EVERYWHERE, key),
        ]
    waits = [await throttle.admit(pool, limit, value) for limit, value in limited]
    if max(waits):
        await security_events.record(
            pool, SecurityEvent.SIGN_IN_THROTTLED, account=account.id if account else None, address=browser.address
        )
        raise RefusedError(max(waits))
    good = await passwords.verify(account.password_hash if account else None, password[:1000])
    if account is None or not good:
        await security_events.record(
            pool, SecurityEvent.SIGN_IN_FAILED, account=account.id if account else None, address=browser.address
        )
        raise RefusedError
    for limit, value in limited:
        # What others tried from the same address is not forgotten by one good password.
        forget = throttle.forgive if limit is throttle.ADDRESS else throttle.clear
        await forget(pool, limit, value)
    return await sessions.start(
        pool, account, stage="second", level="none", methods=["pwd"], agent=browser.agent, address=browser.address,
        in_app=browser.in_app,
    )  # fmt: skip


def network(address: str) -> str:
    """Where an address is: a household's or an organisation's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{address}/{24 if parsed.version == 4 else 56}", strict=False))


async def second_factor(
    pool: Pool, session: Session, kind: str, proof: str | dict[str, object], browser: Browser
) -> str:
    """Open the session by its second factor (``totp``, ``passkey`` or ``code``); returns its new cookie.

    Raises RefusedError.
    """
    counted = str(session.account.id)
    if is_device_of(session.account, browser.device):
        counted += f" at {browser.device}"
    if wait := await throttle.admit(pool, throttle.SECOND_FACTOR, counted):
        raise RefusedError(wait)
    if kind == "totp" and isinstance(proof, str):
        good, level, method = await factors.check_totp(pool, session.account, proof), "strong", "otp"
    elif kind == "passkey" and isinstance(proof, dict):
        good, level, method = await factors.check_passkey(pool, session, proof), "strong", "hwk"
    else:
        allowed = not session.account.has_strong_factor and isinstance(proof, str)
        good, level, method = allowed and await factors.check_code(pool, session, str(proof)), "weak", "mca"
    if not good:
        await security_events.record(
            pool, SecurityEvent.SECOND_FACTOR_FAILED, account=session.account.id, address=browser.address, detail=kind
        )
        raise RefusedError
    await throttle.clear(pool, throttle.SECOND_FACTOR, counted)
    await throttle.clear(pool, throttle.MAIL, str(session.account.id))
    if level == "weak":
        await accounts.verified(pool, session.account)
        if session.account.is_professional or session.account.must_enrol:
            # The letter proves the address; what opens records is added next.
            return await sessions.renew(pool, session, stage="enrol", level="none", methods=[*session.methods, method])
    return await opened(pool, session, level, [*session.methods, method, "mfa"], browser)


async def opened(pool: Pool, session: Session, level: str, methods: list[str], browser: Browser) -> str:
    """The session is open, under a new name; a browser that was never seen is told of by letter."""
    async with pool.acquire() as connection, connection.transaction():
        value = await sessions.renew(connection, session, stage="open", level=level, methods=methods)
        await security_events.record(
            connection,
            SecurityEvent.SIGN_IN,
            account=session.account.id,
            address=browser.address,
            detail=" ".join(methods),
        )
        if session.account.email and not is_device_of(session.account, browser.device):
            await new_device(connection, session.account, browser)
    letters.kick()
    return value


async def new_device(connection: Connection, account: Account, browser: Browser) -> None:
    """Tell the account's owner of a sign-in with a browser that was never seen."""
    now = datetime.now(ZoneInfo("Europe/London"))
    when = f"{now.day} {now:%B %Y at %H:%M}"
    await letters.write(
        connection, "new-device", account.email or "", name=account.name, agent=browser.name or "unknown", when=when
    )


def device_of(account: Account) -> str:
    """What a browser keeps to be known again: the account's number, and our word for it."""
    salt = sealed.token()[:16]
    return f"{salt}.{sealed.mac('device', f'{account.id}:{salt}').hex()[:32]}"


def is_device_of(account: Account | None, device: str) -> bool:
    """Whether the account's owner has signed in with this browser before."""
    salt, _, sign = device.partition(".")
    return account is not None and hmac.compare_digest(
        sealed.mac("device", f"{account.id}:{salt}").hex()[:32].encode(), sign.encode()
    )


async def forgotten(pool: Pool, email: str, browser: Browser) -> None:
    """Let a letter go to the address, if it has an account; who asked learns nothing, not even that it was too many.

    Raises RefusedError where the network address asks for too much.
    """
    key = email_key(email)[:254]
    if wait := await throttle.admit(pool, throttle.ADDRESS, browser.address):
        raise RefusedError(wait)
    limited = ((throttle.MAIL, f"{key} from {network(browser.address)}"), (throttle.MAIL_EVERYWHERE, key))
    if max([await throttle.admit(pool, limit, value) for limit, value in limited]):
        return
    async with pool.acquire() as connection, connection.transaction():
        await letters.write(connection, "forgotten", key)
        await security_events.record(connection, SecurityEvent.PASSWORD_FORGOTTEN, address=browser.address)
    letters.kick()


async def reset_facts(pool: Pool, email: str) -> dict[str, object] | None:
    """What the letter to somebody who has forgotten his password says; None where there is no account."""
    account = await accounts.by_email(pool, email)
    if account is None or account.password_hash is None:
        # Whom a provider signs in alone gets no password by his mailbox.
        return None
    token = await one_time.give(pool, "reset", _RESET_SECONDS, account=account.id)
    return {"address": account.email, "name": account.name, "token": token, "minutes": _RESET_SECONDS // 60}


async def reset(pool: Pool, token: str, password: str) -> None:
    """A new password by the link of a letter; it ends all sessions and any lock. Raises AccountError."""
    known = await one_time.look(pool, "reset", token)
    account = await accounts.by_id(pool, known.account_id) if known and known.account_id else None
    if account is None:
        raise AccountError("This link has been used, or is too old. Ask for a new one")
    await accounts.check_password(password, account.email or "", account.name)
    async with pool.acquire() as connection, connection.transaction():
        if await one_time.use(connection, "reset", token) is None:
            raise AccountError("This link has been used, or is too old. Ask for a new one")
        await one_time.withdraw(connection, "reset", account.id)
        await accounts.set_password(connection, account, password)
        await accounts.verified(connection, account)
        await sessions.end(connection, account.id)
        await grants.end_all(connection, account.id)
        await security_events.record(connection, SecurityEvent.PASSWORD_CHANGED, account=account.id, detail="reset")
        if account.email:
            await letters.write(connection, "password-changed", account.email, name=account.name)
    await throttle.clear(pool, throttle.EVERYWHERE, email_key(account.email or ""))
    letters.kick()


async def change_password(pool: Pool, session: Session, old: str, new: str, browser: Browser) -> str:
    """A new password for who knows the old one; other sessions end. Returns the cookie. Raises AccountError."""
    account = session.account
    if await throttle.admit(pool, throttle.PASSWORD, str(account.id)):
        raise AccountError("Too many attempts. Wait a few minutes")
    if not await passwords.verify(account.password_hash, old[:1000]):
        await security_events.record(
            pool, SecurityEvent.SIGN_IN_FAILED, account=account.id, address=browser.address, detail="change of password"
        )
        raise AccountError("Your present password is not right")
    await throttle.clear(pool, throttle.PASSWORD, str(account.id))
    await accounts.check_password(new, account.email or "", account.name)
    async with pool.acquire() as connection, connection.transaction():
        await one_time.withdraw(connection, "reset", account.id)
        await accounts.set_password(connection, account, new)
        await sessions.end(connection, account.id, but=session)
        value = await sessions.renew(
            connection, session, stage="open", level=session.level, methods=list(session.methods), authenticated=False
        )
        await security_events.record(connection, SecurityEvent.PASSWORD_CHANGED, account=account.id)
        if account.email:
            await letters.write(connection, "password-changed", account.email, name=account.name)
    letters.kick()
    return value


async def factor_changed(pool: Pool, session: Session, what: str, event: SecurityEvent) -> None:
    """Tell the account's owner, and the log, that a factor came or went."""
    async with pool.acquire() as connection, connection.transaction():
        await security_events.record(connection, event, account=session.account.id, detail=what)
        if session.account.email:
            await letters.write(
                connection, "factor-changed", session.account.email, name=session.account.name, what=what
            )
    letters.kick()


async def change_email(pool: Pool, session: Session, new: str) -> None:
    """Ask both addresses; the change is made when both have said yes. Raises AccountError.

    An address that has an account already is answered like any other, and its owner is not written to.
    """
    new, account = accounts.checked_email(new), session.account
    if await throttle.admit(pool, throttle.MAIL, str(account.id)):
        raise AccountError("Too many attempts. Wait a few minutes")
    change = str(uuid.uuid4())
    async with pool.acquire() as connection, connection.transaction():
        await one_time.withdraw(connection, "email", account.id)
        for kind, address in (("email-old", account.email), ("email-new", new)):
            if not address or (kind == "email-new" and await accounts.by_email(connection, new)):
                continue
            token = await one_time.give(
                connection, "email", _CONFIRM_SECONDS, account=account.id, new=new, change=change
            )
            await letters.write(
                connection, kind, address, name=account.name, new=new, token=token, hours=_CONFIRM_SECONDS // 3600
            )
    letters.kick()


async def confirm_email(pool: Pool, token: str) -> str:
    """One of the two yeses. Returns ``changed`` or ``one more``. Raises AccountError."""
    async with pool.acquire() as connection, connection.transaction():
        said = await one_time.use(connection, "email", token)
        account = await accounts.by_id(connection, said.account_id) if said and said.account_id else None
        if said is None or account is None:
            raise AccountError("This link has been used, or is too old")
        # Serialised by the account's row, so that the second of two at once sees the first.
        await connection.execute("SELECT FROM account WHERE id = $1 FOR UPDATE", account.id)
        missing = await connection.fetchval(
            "SELECT count(*) FROM one_time WHERE account_id = $1 AND purpose = 'email' AND used_at IS NULL"
            " AND facts::json ->> 'change' = $2",
            account.id,
            said.facts["change"],
        )
        alone = account.email is not None and await connection.fetchval(
            "SELECT count(*) < 2 FROM one_time WHERE account_id = $1 AND facts::json ->> 'change' = $2",
            account.id,
            said.facts["change"],
        )
        if missing or alone:
            # Where the new address has an account of its own nobody was written to there, and nobody is told so.
            return "one more"
        new = said.facts["new"]
        if await accounts.by_email(connection, new):
            raise AccountError("This address cannot be used")
        await connection.execute(
            "UPDATE account SET email = $2, email_key = $3, email_verified_at = now() WHERE id = $1",
            account.id,
            new,
            email_key(new),
        )
        await one_time.withdraw(connection, "reset", account.id)
        await security_events.record(connection, SecurityEvent.EMAIL_CHANGED, account=account.id)
        if account.email:
            await letters.write(connection, "email-changed", account.email, name=account.name, new=new)
    letters.kick()
    return "changed"
