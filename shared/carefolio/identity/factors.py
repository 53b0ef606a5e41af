"""Second factors: authenticator apps (RFC 6238), passkeys (WebAuthn level 3), codes by e-mail."""

from __future__ import annotations

import hmac
import json
import secrets
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import pyotp
import webauthn
from webauthn.helpers import base64url_to_bytes
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.identity import letters, sealed, sessions
from carefolio.identity.accounts import Account
from carefolio.identity.sessions import Session

CODE_SECONDS = 10 * 60
_TOTP_SECONDS = 30
_ISSUER = "Carefolio"
_MOST_PASSKEYS = 10


class FactorError(Exception):
    """The factor was not the right one; the text is for the person."""


# Authenticator apps.


def new_totp_secret() -> str:
    """160 bits in base 32, for an authenticator app."""
    return pyotp.random_base32()


def totp_uri(secret: str, account: Account) -> str:
    """What the QR code says (Key URI format)."""
    return pyotp.TOTP(secret).provisioning_uri(name=account.email or account.name, issuer_name=_ISSUER)


async def add_totp(pool: Pool | Connection, account: Account, secret: str, code: str) -> None:
    """An authenticator app that has just shown ``code`` becomes the account's. Raises FactorError."""
    step = _step(secret, code)
    if step is None:
        raise FactorError(
            "That code is not right. Check that your phone's clock is set automatically, and enter the next code"
        )
    await pool.execute(
        "UPDATE account SET totp_sealed = $2, totp_step = $3, must_enrol = false WHERE id = $1",
        account.id,
        sealed.seal(secret.encode()),
        step,
    )


async def check_totp(pool: Pool, account: Account, code: str) -> bool:
    """Whether it is the app's code of now, or of half a minute around it; each is good once."""
    stored = await pool.fetchval("SELECT totp_sealed FROM account WHERE id = $1", account.id)
    if stored is None:
        return False
    step = _step(sealed.unseal(bytes(stored)).decode(), code)
    if step is None:
        return False
    used = await pool.execute("UPDATE account SET totp_step = $2 WHERE id = $1 AND totp_step < $2", account.id, step)
    return bool(used == "UPDATE 1")


async def remove_totp(pool: Pool | Connection, account: Account) -> None:
    await pool.execute("UPDATE account SET totp_sealed = NULL WHERE id = $1", account.id)


def _step(secret: str, code: str) -> int | None:
    code = "".join(code.split())
    if len(code) != 6 or not code.isascii() or not code.isdigit():
        return None
    totp, now = pyotp.TOTP(secret), int(time.time()) // _TOTP_SECONDS
    good = [step for step in (now - 1, now, now + 1) if hmac.compare_digest(totp.generate_otp(step), code)]
    return max(good) if good else None


# Codes by e-mail: the weaker fallback, for patients.


async def send_code(pool: Pool, session: Session) -> None:
    """Send six digits that are good in this session, once and for ten minutes."""
    code = f"{secrets.randbelow(1_000_000):06d}"
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "UPDATE session SET code_digest = $2, code_expires_at = now() + make_interval(secs => $3) WHERE id = $1",
            session.id,
            _code_digest(session, code),
            float(CODE_SECONDS),
        )
        await letters.write(
            connection,
            "code",
            session.account.email or "",
            name=session.account.name,
            code=code,
            minutes=CODE_SECONDS // 60,
        )
    letters.kick()


async def check_code(pool: Pool, session: Session, code: str) -> bool:
    """Whether it is the code that was sent; a good one is good once."""
    used = await pool.execute(
        """
        UPDATE session SET code_digest = NULL WHERE id = $1 AND code_digest = $2 AND code_expires_at > now()
        """,
        session.id,
        _code_digest(session, "".join(code.split())),
    )
    return bool(used == "UPDATE 1")


def _code_digest(session: Session, code: str) -> bytes:
    return sealed.mac("code", f"{session.number}:{code}")


# Passkeys.


async def registration_options(pool: Pool, session: Session) -> dict[str, Any]:
    """What ``navigator.credentials.create`` is called with."""
    known = await _descriptors(pool, session.account)
    if len(known) >= _MOST_PASSKEYS:
        raise FactorError(f"You have {_MOST_PASSKEYS} passkeys. Remove one first")
    made = webauthn.generate_registration_options(
        rp_id=_rp_id(),
        rp_name=_ISSUER,
        user_id=session.account.id.bytes,
        user_name=session.account.email or session.account.name,
        user_display_name=session.account.name,
        exclude_credentials=known,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
    )
    await sessions.challenge(pool, session, made.challenge)
    options: dict[str, Any] = json.loads(webauthn.options_to_json(made))
    return options


async def add_passkey(pool: Pool, session: Session, credential: dict[str, Any], name: str) -> None:
    """Keep the public key of a new passkey. Raises FactorError."""
    challenge = await sessions.take_challenge(pool, session)
    try:
        made = webauthn.verify_registration_response(
            credential=credential,
            expected_challenge=challenge or b"",
            expected_rp_id=_rp_id(),
            expected_origin=settings().public_url,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError):
        raise FactorError("The passkey could not be added. Try again") from None
    if not challenge:
        raise FactorError("The passkey took too long. Try again")
    await pool.execute(
        """
        WITH added AS (
            INSERT INTO passkey (credential_id, account_id, public_key, sign_count, name) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING
        ) UPDATE account SET must_enrol = false WHERE id = $2
        """,
        made.credential_id,
        session.account.id,
        made.credential_public_key,
        made.sign_count,
        name[:60] or "Passkey",
    )


async def assertion_options(pool: Pool, session: Session) -> dict[str, Any]:
    """What ``navigator.credentials.get`` is called with."""
    made = webauthn.generate_authentication_options(
        rp_id=_rp_id(),
        allow_credentials=await _descriptors(pool, session.account),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    await sessions.challenge(pool, session, made.challenge)
    options: dict[str, Any] = json.loads(webauthn.options_to_json(made))
    return options


async def check_passkey(pool: Pool, session: Session, credential: dict[str, Any]) -> bool:
    """Whether a passkey of the account signed the session's challenge."""
    challenge = await sessions.take_challenge(pool, session)
    try:
        number = base64url_to_bytes(str(credential["rawId"]))
    except (KeyError, ValueError, TypeError):
        return False
    row = await pool.fetchrow(
        "SELECT * FROM passkey WHERE credential_id = $1 AND account_id = $2", number, session.account.id
    )
    if row is None or not challenge:
        return False
    try:
        good = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=_rp_id(),
            expected_origin=settings().public_url,
            credential_public_key=row["public_key"],
            credential_current_sign_count=row["sign_count"],
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError):
        return False
    await pool.execute(
        "UPDATE passkey SET sign_count = $2, used_at = now() WHERE credential_id = $1", number, good.new_sign_count
    )
    return True


async def passkeys(pool: Pool, account: Account) -> list[dict[str, Any]]:
    """The account's passkeys, with a number to remove each by."""
    rows = await pool.fetch(
        "SELECT credential_id, name, created_at, used_at FROM passkey WHERE account_id = $1 ORDER BY created_at",
        account.id,
    )
    return [dict(row) | {"number": bytes(row["credential_id"]).hex()} for row in rows]


async def remove_passkey(pool: Pool | Connection, account: Account, number: str) -> bool:
    try:
        credential = bytes.fromhex(number)
    except ValueError:
        return False
    done = await pool.execute(
        "DELETE FROM passkey WHERE credential_id = $1 AND account_id = $2", credential, account.id
    )
    return bool(done == "DELETE 1")


async def remove_all(connection: Connection, account: uuid.UUID) -> None:
    """An operator's way for somebody who has lost what he proved himself with: he must add one anew."""
    await connection.execute("DELETE FROM passkey WHERE account_id = $1", account)
    await connection.execute("UPDATE account SET totp_sealed = NULL, must_enrol = true WHERE id = $1", account)


async def _descriptors(pool: Pool, account: Account) -> list[PublicKeyCredentialDescriptor]:
    rows = await pool.fetch("SELECT credential_id FROM passkey WHERE account_id = $1", account.id)
    return [PublicKeyCredentialDescriptor(id=bytes(row["credential_id"])) for row in rows]


def _rp_id() -> str:
    """The relying party of WebAuthn: the host, never an address."""
    return urlsplit(settings().public_url).hostname or ""
