"""Who takes part: organisations, their teams, the senders that post for them and the clients that read."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import Network
from carefolio.identity import passwords, scopes, sealed
from carefolio.identity.outside import OutsideError, check_url

# NHS Organisation Data Service codes: letters and digits; the shortest has 3, sites have more.
_ODS_CODE = re.compile(r"[A-Z0-9]{3,12}\Z")
_LONGEST_NAME = 200


class RegistryError(Exception):
    """What was asked for cannot be; the text is for an administrator."""


@dataclass(frozen=True, slots=True)
class NewSender:
    """``password`` is known here and never again."""

    username: str
    password: str
    organisation: str
    name: str


@dataclass(frozen=True, slots=True)
class NewClient:
    """``client_secret`` is known here and never again; None for a client that signs with its own key."""

    client_id: str
    client_secret: str | None
    scope: str


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What a client is that people use: ``public`` has no credential; ``launch_uri`` is where it is opened from
    here.
    """

    public: bool = False
    redirect_uris: tuple[str, ...] = ()
    grants: tuple[str, ...] = ("client_credentials",)
    jwks_uri: str | None = None
    launch_uri: str | None = None
    created_by: str = ""


async def add_organisation(pool: Pool, ods_code: str, name: str) -> uuid.UUID:
    """Register an organisation by its ODS code. Raises RegistryError."""
    ods_code = ods_code.strip().upper()
    if not _ODS_CODE.match(ods_code):
        raise RegistryError("an ODS code has 3 to 12 letters and digits")
    try:
        number: uuid.UUID = await pool.fetchval(
            "INSERT INTO organisation (ods_code, name) VALUES ($1, $2) RETURNING id", ods_code, _name(name)
        )
    except asyncpg.UniqueViolationError:
        raise RegistryError(f"there is an organisation {ods_code} already") from None
    return number


async def add_sender(
    pool: Pool,
    name: str,
    organisation: str,
    allow: Sequence[str],
    *,
    team: str | None = None,
    permitted: dict[str, str] | None = None,
) -> NewSender:
    """Register a sender, with its networks (CIDR).

    ``permitted`` makes it a partner: what it writes in MSH-4 -> the ODS code that it may send for. Raises
    RegistryError.
    """
    if not allow:
        raise RegistryError("a sender needs at least one network to come from")
    if team and permitted is not None:
        raise RegistryError("a partner sends for organisations, not for a team")
    networks = _networks(allow)
    name = _name(name)
    username = f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-') or 'sender'}-{secrets.token_hex(3)}"
    password = passwords.new_secret()
    async with pool.acquire() as connection, connection.transaction():
        owner = await organisation_id(connection, organisation)
        team_id = await connection.fetchval("SELECT id FROM team WHERE organisation_id = $1 AND name = $2", owner, team)
        if team and team_id is None:
            raise RegistryError(f"{organisation} has no team {team}")
        try:
            number = await connection.fetchval(
                """
                INSERT INTO sender (name, username, password_hash, organisation_id, team_id, partner, networks)
                VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
                """,
                name,
                username,
                passwords.hash_secret(password),
                owner,
                team_id,
                permitted is not None,
                networks,
            )
        except asyncpg.UniqueViolationError:
            raise RegistryError(f"there is a sender {name} already") from None
        for alias, ods_code in (permitted or {}).items():
            await connection.execute(
                "INSERT INTO sender_alias (sender_id, alias, organisation_id) VALUES ($1, $2, $3)",
                number,
                alias,
                await organisation_id(connection, ods_code),
            )
    return NewSender(username, password, organisation, name)


def _networks(texts: Sequence[str]) -> list[Network]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise RegistryError(f"not a network: {error}") from None


async def renew_password(pool: Pool, name: str, organisation: uuid.UUID | None = None) -> NewSender:
    """A new password for a sender (of one organisation); the old one opens nothing after a minute.

    Raises RegistryError.
    """
    password = passwords.new_secret()
    row = await pool.fetchrow(
        """
        UPDATE sender SET password_hash = $3 FROM organisation
        WHERE organisation.id = organisation_id AND sender.name = $1 AND ($2::uuid IS NULL OR organisation_id = $2)
        RETURNING username, ods_code
        """,
        name,
        organisation,
        passwords.hash_secret(password),
    )
    if row is None:
        raise RegistryError(f"there is no sender {name}")
    return NewSender(row["username"], password, row["ods_code"], name)


async def set_networks(
    pool: Pool, name: str, allow: Sequence[str], organisation: uuid.UUID | None = None
) -> list[Network]:
    """From where a sender may post, from a minute on; from nowhere where none is given. Raises RegistryError."""
    networks = _networks(allow)
    changed = await pool.fetchval(
        """
        UPDATE sender SET networks = $3 WHERE name = $1 AND ($2::uuid IS NULL OR organisation_id = $2) RETURNING id
        """,
        name,
        organisation,
        networks,
    )
    if changed is None:
        raise RegistryError(f"there is no sender {name}")
    return networks


async def add_client(
    pool: Pool, name: str, organisation: str, scope: str, jwks: str | None = None, app: AppSettings | None = None
) -> NewClient:
    """Register a client of the APIs, with a secret, or with its public keys (a JWK set) in place of one.

    Raises RegistryError.
    """
    check_scopes(scope)
    return await add_client_of(pool, name, await organisation_id(pool, organisation), scope, jwks, app)


async def add_client_of(
    pool: Pool | Connection,
    name: str,
    organisation: uuid.UUID,
    scope: str,
    jwks: str | None = None,
    app: AppSettings | None = None,
) -> NewClient:
    """The same for an organisation by its number."""
    app = app or AppSettings()
    check_scopes(scope)
    if jwks is not None:
        _check_keys(jwks)
    for uri in app.redirect_uris:
        check_redirect_uri(uri)
    if app.jwks_uri:
        check_keys_url(app.jwks_uri)
    if app.launch_uri:
        check_redirect_uri(app.launch_uri)
    people = [text for text in scope.split() if text.startswith(("patient/", "user/", "launch"))]
    if people and not app.redirect_uris and not set(app.grants) & {"urn:ietf:params:oauth:grant-type:device_code"}:
        raise RegistryError(f"{people[0]} is for apps that people sign in to: give --redirect (or --device)")
    if app.launch_uri and not app.redirect_uris:
        raise RegistryError("an app that is opened from here comes back to a --redirect")
    if app.public and not people and "authorization_code" not in app.grants:
        raise RegistryError("a public client is an app that people sign in to: give --redirect (or --device)")
    if app.public and (jwks or app.jwks_uri or "client_credentials" in app.grants):
        raise RegistryError("a public client has neither keys nor rights of its own")
    if "authorization_code" in app.grants and not app.redirect_uris:
        raise RegistryError("an app that people sign in to needs at least one redirect URI")
    client_id = str(uuid.uuid4())
    secret = None if app.public or jwks or app.jwks_uri else passwords.new_secret()
    await pool.execute(
        """
        INSERT INTO client (id, name, organisation_id, secret_hash, jwks, scope, public, redirect_uris, grants,
        jwks_uri, launch_uri, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        """,
        client_id,
        _name(name),
        organisation,
        sealed.digest(secret).hex() if secret else None,
        jwks,
        " ".join(scope.split()),
        app.public,
        list(app.redirect_uris),
        list(app.grants),
        app.jwks_uri,
        app.launch_uri,
        app.created_by,
    )
    return NewClient(client_id, secret, " ".join(scope.split()))


def check_scopes(scope: str) -> None:
    """Raises RegistryError for what is no scope of ours."""
    wanted = scope.split()
    if not wanted:
        raise RegistryError("a client needs at least one scope, such as system/*.rs")
    for text in wanted:
        if not scopes.is_known(text):
            raise RegistryError(f"not a scope: {text} (they read like system/Observation.rs)")


def check_redirect_uri(uri: str) -> None:
    """Raises RegistryError unless it is HTTPS, a native app's own scheme, or loopback (RFC 8252 section 7)."""
    try:
        parts = urlsplit(uri)
        _ = parts.port, parts.hostname
    except ValueError:
        raise RegistryError(f"not a redirect URI: {uri}") from None
    if parts.fragment or "*" in uri or not uri.isprintable() or " " in uri or len(uri) > 2000 or not parts.scheme:
        raise RegistryError(f"not a redirect URI: {uri}")
    if parts.scheme == "https" and parts.hostname and "@" not in parts.netloc:
        return
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return
    # A reverse domain name, such as uk.example.app:/back (RFC 8252 section 7.1).
    if "." in parts.scheme and not parts.netloc:
        return
    raise RegistryError(
        f"a redirect URI is https, http on a loopback address, or of a scheme like uk.example.app: {uri}"
    )


def check_keys_url(url: str) -> None:
    """Raises RegistryError."""
    try:
        check_url(url)
    except OutsideError as error:
        raise RegistryError(f"jwks_uri: {error.reason}") from None


async def clients_of(pool: Pool, organisation: uuid.UUID) -> list[dict[str, object]]:
    """The living clients of an organisation: id, name, scope, public, redirect_uris, grants."""
    rows = await pool.fetch(
        "SELECT id, name, scope, public, redirect_uris, grants FROM client"
        " WHERE organisation_id = $1 AND ended_at IS NULL ORDER BY name",
        organisation,
    )
    return [dict(row) for row in rows]


async def end_client(pool: Pool, client_id: str) -> None:
    """A client gets no more tokens, and those that it has open nothing within a minute. Raises RegistryError."""
    ended = await pool.fetchval(
        "UPDATE client SET ended_at = coalesce(ended_at, now()) WHERE id = $1 RETURNING id", client_id
    )
    if ended is None:
        raise RegistryError(f"there is no client {client_id}")


def _check_keys(jwks: str) -> None:
    try:
        loaded = json.loads(jwks)
        keys = KeySet.import_key_set(loaded)
    except (ValueError, TypeError, KeyError, AttributeError, JoseError):
        raise RegistryError("not a JWK set (RFC 7517)") from None
    if not loaded["keys"] or any(key.key_type == "oct" or key.is_private for key in keys.keys):
        raise RegistryError("the JWK set must hold public keys only, and at least one")


async def ods_code(pool: Pool, organisation_id: uuid.UUID) -> str:
    """The ODS code of an organisation that is there."""
    return str(await pool.fetchval("SELECT ods_code FROM organisation WHERE id = $1", organisation_id))


async def organisation_id(connection: Pool | Connection, ods_code: str) -> uuid.UUID:
    """The number of an organisation. Raises RegistryError."""
    number = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = $1", ods_code.strip().upper())
    if number is None:
        raise RegistryError(f"there is no organisation {ods_code}: add it first")
    return uuid.UUID(str(number))


def _name(text: str) -> str:
    text = text.strip()
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        raise RegistryError(f"a name has 1 to {_LONGEST_NAME} printable characters")
    return text
