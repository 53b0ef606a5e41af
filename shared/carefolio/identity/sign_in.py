"""Signing in with e-mail address and password, and what belongs to it: the second factor, a forgotten password, another
address.

Nothing here tells whether an address has an account: the answers, and what is done before them, are the same.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass

from carefolio.cloud.database import Pool
from carefolio.identity import (
    accounts,
    factors,
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
    limited = [(throttle.ADDRESS, browser.address)]
    if is_device_of(account, browser.device):
        limited = [(throttle.PASSWORD, f"{key} at {browser.device}")]
    else:
        limited.append((throttle.PASSWORD, key))
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
        await throttle.clear(pool, limit, value)
    stage = "second" if account.has_strong_factor or (account.is_patient and not account.must_enrol) else "enrol"
    return await sessions.start(
        pool, account, stage=stage, level="none", methods=["pwd"], agent=browser.agent, address=browser.address,
        in_app=browser.in_app,
    )  # fmt: skip


async def second_factor(
    pool: Pool, session: Session, kind: str, proof: str | dict[str, object], browser: Browser
) -> str:
    """Open the session by its second factor (``totp``, ``passkey`` or ``code``); returns its new cookie.

    Raises RefusedError.
    """
    wait = await throttle.admit(pool, throttle.SECOND_FACTOR, str(session.account.id))
    if wait:
        raise RefusedError(wait)
    if kind == "totp" and isinstance(proof, str):
        good, level, method = await factors.check_totp(pool, session.account, proof), "strong", "otp"
    elif kind == "passkey" and isinstance(proof, dict):
        good, level, method = await factors.check_passkey(pool, session, proof), "strong", "hwk"
    else:
        allowed = session.account.is_patient and not session.account.has_strong_factor and isinstance(proof, str)
        good, level, method = allowed and await factors.check_code(pool, session, str(proof)), "weak", "mca"
    if not good:
        await security_events.record(
            pool, SecurityEvent.SECOND_FACTOR_FAILED, account=session.account.id, address=browser.address, detail=kind
        )
        raise RefusedError
    await throttle.clear(pool, throttle.SECOND_FACTOR, str(session.account.id))
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
            await letters.write(
                connection,
                "new-device",
                session.account.email,
                name=session.account.name,
                agent=browser.agent[:100] or "unknown",
            )
    letters.kick()
    return value


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
    """Let a letter go to the address, if it has an account; who asked learns nothing. Raises RefusedError (wait)."""
    key = email_key(email)[:254]
    wait = max(
        await throttle.admit(pool, throttle.MAIL, key), await throttle.admit(pool, throttle.ADDRESS, browser.address)
    )
    if wait:
        raise RefusedError(wait)
    async with pool.acquire() as connection, connection.transaction():
        await letters.write(connection, "forgotten", key)
        await security_events.record(connection, SecurityEvent.PASSWORD_FORGOTTEN, address=browser.address)
    letters.kick()


async def reset_facts(pool: Pool, email: str) -> dict[str, object] | None:
    """What the letter to somebody who has forgotten his password says; None where there is no account."""
    account = await accounts.by_email(pool, email)
    if account is None:
        return None
    token = await one_time.give(pool, "reset", _RESET_SECONDS, account=account.id)
    return {"name": account.name, "token": token, "minutes": _RESET_SECONDS // 60}


async def reset(pool: Pool, token: str, password: str) -> None:
    """A new password by the link of a letter; it ends all sessions and any lock. Raises AccountError."""
    known = await one_time.look(pool, "reset", token)
    account = await accounts.by_id(pool, known.account_id) if known and known.account_id else None
    if account is None:
        raise AccountError("This link has been used, or is too old. Ask for a new one")
    accounts.check_password(password, account.email or "", account.name)
    async with pool.acquire() as connection, connection.transaction():
        if await one_time.use(connection, "reset", token) is None:
            raise AccountError("This link has been used, or is too old. Ask for a new one")
        await one_time.withdraw(connection, "reset", account.id)
        await accounts.set_password(connection, account, password)
        await sessions.end(connection, account.id)
        await security_events.record(connection, SecurityEvent.PASSWORD_CHANGED, account=account.id, detail="reset")
        if account.email:
            await letters.write(connection, "password-changed", account.email, name=account.name)
    await throttle.clear(pool, throttle.PASSWORD, email_key(account.email or ""))
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
    accounts.check_password(new, account.email or "", account.name)
    async with pool.acquire() as connection, connection.transaction():
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
        if missing:
            return "one more"
        if account.email is not None and await connection.fetchval(
            "SELECT count(*) < 2 FROM one_time WHERE account_id = $1 AND facts::json ->> 'change' = $2",
            account.id,
            said.facts["change"],
        ):
            # Only the old address was written to, since the new one has an account of its own.
            raise AccountError("This address cannot be used")
        new = said.facts["new"]
        if await accounts.by_email(connection, new):
            raise AccountError("This address cannot be used")
        await connection.execute(
            "UPDATE account SET email = $2, email_key = $3 WHERE id = $1", account.id, new, email_key(new)
        )
        await security_events.record(connection, SecurityEvent.EMAIL_CHANGED, account=account.id)
        if account.email:
            await letters.write(connection, "email-changed", account.email, name=account.name, new=new)
    letters.kick()
    return "changed"
