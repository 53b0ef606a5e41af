"""Who else signs people in: NHS login for patients, CIS2 and organisations' own for professionals."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import outside, registry, sealed
from carefolio.identity.outside import OutsideError
from carefolio.identity.registry import RegistryError

NHS_LOGIN, OIDC, CIS2, SAML = "nhs-login", "oidc", "cis2", "saml"
KINDS = (NHS_LOGIN, OIDC, CIS2, SAML)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
# https://nhsconnect.github.io/nhslogin/vectors-of-trust: a health record needs P9.
P9 = ["P9.Cp.Cd", "P9.Cp.Ck", "P9.Cm"]
_DEFAULTS: dict[str, dict[str, Any]] = {
    NHS_LOGIN: {"scope": "openid profile profile_extended email", "vtr": P9, "algorithms": ["RS512"]},
    OIDC: {"scope": "openid profile email", "algorithms": ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256"]},
    CIS2: {
        "scope": "openid profile email nationalrbacaccess",
        "algorithms": ["RS256", "RS512"],
        "acr_values": ["AAL3", "AAL2"],
    },
    SAML: {},
}
# What an operator may set, and of what kind it is: anything else is a mistake in writing.
_SETTINGS: dict[str, type] = {
    "scope": str, "vtr": list, "algorithms": list, "acr_values": list, "claims": dict, "teams": dict, "extra": dict,
    "nhs_app_keys": str, "sso_url": str, "certificate": str, "stand_in": bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as registered. ``settings`` are its own over the kind's defaults."""

    id: uuid.UUID
    name: str
    kind: str
    title: str
    issuer: str
    client_id: str
    organisation_id: uuid.UUID | None
    team_id: uuid.UUID | None
    domains: tuple[str, ...]
    key: bytes | None = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def stand_in(self) -> bool:
        return bool(self.settings.get("stand_in"))

    @property
    def callback(self) -> str:
        """Where the provider sends the browser back to; one address each, so that none is taken for another."""
        return f"{settings().public_url}/login/with/{self.name}/{'acs' if self.kind == SAML else 'callback'}"

    @property
    def private_key(self) -> RSAKey | None:
        """The key that we sign with at the provider; None where we have a secret."""
        if self.key is None or not self.key.lstrip().startswith((b"-----", b"{")):
            return None
        return RSAKey.import_key(json.loads(self.key) if self.key.lstrip().startswith(b"{") else self.key)

    @property
    def secret(self) -> str | None:
        return self.key.decode().strip() if self.key and self.private_key is None else None


async def add(
    pool: Pool,
    name: str,
    kind: str,
    *,
    issuer: str,
    client_id: str,
    key: bytes | None = None,
    title: str = "",
    organisation: str | None = None,
    team: str | None = None,
    domains: tuple[str, ...] = (),
    chosen: dict[str, Any] | None = None,
) -> uuid.UUID:
    """Register a provider. ``key`` is a PEM or JWK private key, or a client secret. Raises RegistryError."""
    if not _NAME.match(name):
        raise RegistryError("a provider's name has small letters, digits and hyphens: it is part of an address")
    if kind not in KINDS:
        raise RegistryError(f"the kinds are {', '.join(KINDS)}")
    for setting, value in (chosen or {}).items():
        if not isinstance(value, _SETTINGS.get(setting, type(None))):
            raise RegistryError(f"not a setting, or of the wrong kind: {setting}")
    if kind != SAML:
        try:
            outside.check_url(issuer)
        except OutsideError as error:
            raise RegistryError(f"issuer: {error.reason}") from None
    if kind != SAML and (not client_id or not key or not key.strip()):
        raise RegistryError("our name there (--client-id) and our key or secret (--key) are needed")
    if kind == SAML and not {"sso_url", "certificate"} <= set(chosen or {}):
        raise RegistryError("a SAML provider needs the settings sso_url and certificate")
    if kind in (OIDC, SAML) and (organisation is None or not domains):
        raise RegistryError("an organisation's provider needs --organisation, and the --domain of its e-mail addresses")
    if kind == SAML:
        _check_saml(chosen or {})
    if taken := [domain for domain in domains if await of_domain(pool, f"x@{domain}")]:
        raise RegistryError(f"another provider has the domain {taken[0]}")
    if kind == NHS_LOGIN and await of_kind(pool, NHS_LOGIN):
        raise RegistryError("there is an NHS login already: end it first")
    made = Provider(uuid.uuid4(), name, kind, title or name, issuer.rstrip("/") if kind != SAML else issuer, client_id,
                    None, None, domains, key, chosen or {})  # fmt: skip
    try:
        known = made.private_key
        if (known is None and kind == NHS_LOGIN) or (known is not None and not known.is_private):
            raise RegistryError("NHS login knows clients by a key: give the PEM file of an RSA private key")
    except (JoseError, ValueError):
        raise RegistryError("the key is no RSA private key") from None
    owner = await registry.organisation_id(pool, organisation) if organisation else None
    team_id = await pool.fetchval("SELECT id FROM team WHERE organisation_id = $1 AND name = $2", owner, team)
    if team and team_id is None:
        raise RegistryError(f"{organisation} has no team {team}")
    try:
        await pool.execute(
            """
            INSERT INTO provider (id, name, kind, title, issuer, client_id, key_sealed, organisation_id, team_id,
            domains, settings) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            """,
            made.id, name, kind, made.title, made.issuer, client_id, sealed.seal(key) if key else None, owner, team_id,
            [domain.casefold() for domain in domains], json.dumps(chosen or {}),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise RegistryError(f"there is a provider {name} already") from None
    return made.id


def _check_saml(chosen: dict[str, Any]) -> None:
    """Raises RegistryError."""
    from cryptography.x509 import load_pem_x509_certificate

    try:
        outside.check_url(chosen["sso_url"])
        load_pem_x509_certificate(chosen["certificate"].encode())
    except OutsideError as error:
        raise RegistryError(f"sso_url: {error.reason}") from None
    except ValueError:
        raise RegistryError("the certificate is none (PEM)") from None


async def end(pool: Pool, name: str) -> None:
    """Nobody signs in by it any more. Raises RegistryError."""
    ended = await pool.execute(
        # Its name is free for another.
        "UPDATE provider SET ended_at = now(), name = name || '~' || id WHERE name = $1 AND ended_at IS NULL",
        name,
    )
    if ended != "UPDATE 1":
        raise RegistryError(f"there is no provider {name}")


async def find(pool: Pool, name: str) -> Provider | None:
    """A living provider by its name."""
    row = await pool.fetchrow("SELECT * FROM provider WHERE name = $1 AND ended_at IS NULL", name)
    return _provider(row) if row else None


async def offered(pool: Pool) -> list[Provider]:
    """The providers that the sign-in page offers."""
    rows = await pool.fetch("SELECT * FROM provider WHERE ended_at IS NULL ORDER BY kind, title LIMIT 50")
    return [_provider(row) for row in rows]


async def of_account(pool: Pool, account: uuid.UUID) -> list[asyncpg.Record]:
    """The providers that sign in to an account."""
    return list(
        await pool.fetch(
            "SELECT provider.name, provider.title, min(known.created_at) AS created_at FROM provider_identity known"
            " JOIN provider ON provider.id = known.provider_id"
            " WHERE known.account_id = $1 AND provider.ended_at IS NULL"
            " GROUP BY provider.name, provider.title ORDER BY provider.title",
            account,
        )
    )


async def disconnect(pool: Pool, account: uuid.UUID, name: str) -> bool:
    """A provider signs in to the account no longer."""
    done = await pool.execute(
        "DELETE FROM provider_identity known USING provider"
        " WHERE provider.id = known.provider_id AND known.account_id = $1 AND provider.name = $2",
        account,
        name,
    )
    return bool(done != "DELETE 0")


async def of_kind(pool: Pool, kind: str) -> Provider | None:
    """The first living provider of a kind."""
    row = await pool.fetchrow(
        "SELECT * FROM provider WHERE kind = $1 AND ended_at IS NULL ORDER BY created_at LIMIT 1", kind
    )
    return _provider(row) if row else None


async def of_domain(pool: Pool, email: str) -> Provider | None:
    """The provider of the organisation whose e-mail addresses end so."""
    domain = email.strip().casefold().rpartition("@")[2]
    row = await pool.fetchrow(
        "SELECT * FROM provider WHERE domains @> ARRAY[$1] AND ended_at IS NULL ORDER BY created_at LIMIT 1", domain
    )
    return _provider(row) if row and domain else None


def _provider(row: asyncpg.Record) -> Provider:
    return Provider(
        row["id"], row["name"], row["kind"], row["title"], row["issuer"], row["client_id"], row["organisation_id"],
        row["team_id"], tuple(row["domains"]), sealed.unseal(bytes(row["key_sealed"])) if row["key_sealed"] else None,
        _DEFAULTS[row["kind"]] | json.loads(row["settings"]),
    )  # fmt: skip


def public_jwks(provider: Provider) -> dict[str, Any]:
    """Our public key at a provider, to register it there."""
    key = provider.private_key
    return dict(KeySet([RSAKey.import_key(key.as_dict(private=False))]).as_dict()) if key else {"keys": []}
