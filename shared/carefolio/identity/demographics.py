"""The NHS's national register of patients: the Personal Demographics Service's FHIR API, application-restricted.

https://digital.nhs.uk/developer/api-catalogue/personal-demographics-service-fhir : we sign for a token (RS512, RFC
7523), and read one patient by his NHS number. Nothing is written there.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import RSAKey

from carefolio.cloud import secrets
from carefolio.cloud.settings import settings
from carefolio.identity import outside

SECRET = "pds-key"  # noqa: S105 - the secret's name
_SPARE_SECONDS = 30
_MOST_BYTES = 1024 * 1024
# Codes of its OperationOutcomes.
_GONE = frozenset({"INVALIDATED_RESOURCE", "RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID"})
_token: tuple[str, float] | None = None


class DemographicsError(Exception):
    """The register cannot be asked now; the text is for an administrator."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What the register says to a number: the Patient, or (``reason``) why there is none."""

    patient: dict[str, Any] | None
    reason: str = ""


def is_set_up() -> bool:
    """Whether this installation may ask at all."""
    return bool(settings().pds_url and settings().pds_client_id)


async def read(nhs_number: str) -> Registered:
    """The patient of an NHS number; where it was replaced, of the one that did. Raises DemographicsError."""
    if not is_set_up():
        raise DemographicsError("tracing is not set up here: it needs an agreement with NHS England")
    headers = {"Authorization": f"Bearer {await _access_token()}", "X-Request-ID": str(uuid.uuid4()),
               "Accept": "application/fhir+json"}  # fmt: skip
    url = f"{settings().pds_url}/Patient/{nhs_number}"
    try:
        async with (
            asyncio.timeout(12),
            httpx2.AsyncClient(timeout=outside.TIMEOUT, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", outside.check_url(url), headers=headers) as answer,
        ):
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise DemographicsError("the register's answer is too large")
        said = json.loads(body)
    except (httpx2.HTTPError, TimeoutError, ValueError, outside.OutsideError):
        raise DemographicsError("the register does not answer: try again later") from None
    if answer.status_code == 200 and isinstance(said, dict) and said.get("resourceType") == "Patient":
        return Registered(said)
    code = _code(said)
    if answer.status_code in (400, 404, 410) and code in _GONE:
        return Registered(None, code.lower().replace("_", "-"))
    raise DemographicsError(f"the register answered with status {answer.status_code}")


def _code(said: Any) -> str:
    try:
        return str(said["issue"][0]["details"]["coding"][0]["code"])
    except (KeyError, IndexError, TypeError):
        return ""


async def _access_token() -> str:
    """A token of our own, kept until shortly before it ends."""
    global _token
    if _token is not None and _token[1] > time.time() + _SPARE_SECONDS:
        return _token[0]
    # Authlib's httpx client is heavy, and few processes trace.
    from authlib.integrations.httpx_client import AsyncOAuth2Client

    key = RSAKey.import_key(json.loads(secrets.read(SECRET)))
    endpoint = settings().pds_token_url
    client = AsyncOAuth2Client(
        client_id=settings().pds_client_id, client_secret=key,
        token_endpoint_auth_method="private_key_jwt",  # noqa: S106 - a method's name
        timeout=outside.TIMEOUT, trust_env=False,
    )  # fmt: skip
    client.register_client_auth_method(PrivateKeyJWT(endpoint, alg="RS512", headers={"kid": str(key.kid)}))
    try:
        async with asyncio.timeout(12), client:
            made = await client.fetch_token(outside.check_url(endpoint), grant_type="client_credentials")
        _token = (str(made["access_token"]), time.time() + float(made.get("expires_in", 300)))
    except (OAuthError, httpx2.HTTPError, TimeoutError, ValueError, KeyError, outside.OutsideError):
        raise DemographicsError("the register gives us no token: is our key registered there?") from None
    return _token[0]
