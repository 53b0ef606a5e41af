"""SAML 2.0, for organisations that have nothing else, by OneLogin's python3-saml.

The request goes by redirect; the answer must be one to it, with a signed assertion, and is good once.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from onelogin.saml2.auth import OneLogin_Saml2_Auth
from onelogin.saml2.errors import OneLogin_Saml2_Error
from onelogin.saml2.settings import OneLogin_Saml2_Settings

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import sealed
from carefolio.identity.providers import Provider
from carefolio.identity.relying_party import SignInError

_REDIRECT = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
_POST = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"
# Attribute names in use: plain, Entra's, and the OIDs of eduPerson and X.500.
_EMAIL = ("email", "mail", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress",
          "urn:oid:0.9.2342.19200300.100.1.3")  # fmt: skip
_NAME = ("name", "displayName", "http://schemas.microsoft.com/identity/claims/displayname",
         "urn:oid:2.16.840.1.113730.3.1.241")  # fmt: skip
_ASSERTION_SECONDS = 24 * 3600


def start(provider: Provider) -> tuple[str, str]:
    """Where to send the browser, and the id of the request that its answer must name."""
    auth = _auth(provider, {})
    url = auth.login(return_to="")
    base, _, query = url.partition("?")
    kept = "&".join(part for part in query.split("&") if not part.startswith("RelayState="))
    return f"{base}?{kept}", str(auth.get_last_request_id())


def finish(provider: Provider, form: dict[str, str], request_id: str) -> tuple[str, dict[str, Any]]:
    """The subject and claims of an answer. Raises SignInError."""
    auth = _auth(provider, form)
    try:
        auth.process_response(request_id=request_id)
    except (OneLogin_Saml2_Error, ValueError, KeyError, TypeError, AttributeError):
        raise SignInError("saml", "unreadable") from None
    except Exception:
        raise SignInError("saml", "unreadable") from None
    if auth.get_errors() or not auth.is_authenticated():
        raise SignInError("saml", ",".join(auth.get_errors())[:100])
    subject = auth.get_nameid()
    if not subject:
        raise SignInError("saml", "no subject")
    attributes = auth.get_attributes()
    return str(subject), {
        "email": _first(attributes, _EMAIL) or (subject if "@" in subject else ""),
        "name": _first(attributes, _NAME),
        "groups": attributes.get("groups") or attributes.get("memberOf") or [],
        "assertion_id": str(auth.get_last_assertion_id()),
    }


async def check_first_use(pool: Pool, assertion: str) -> None:
    """An assertion is good once (SAML profiles 4.1.4.5). Raises SignInError."""
    done = await pool.execute(
        """
        INSERT INTO one_time (digest, purpose, expires_at, used_at)
        VALUES ($1, 'assertion', now() + make_interval(secs => $2), now()) ON CONFLICT DO NOTHING
        """,
        sealed.digest(f"assertion {assertion}"),
        float(_ASSERTION_SECONDS),
    )
    if done != "INSERT 0 1":
        raise SignInError("saml", "replayed")


def metadata(provider: Provider) -> str:
    """Our metadata, which the organisation loads into its server."""
    known = OneLogin_Saml2_Settings(_settings(provider), sp_validation_only=True)
    found = known.get_sp_metadata()
    return found.decode() if isinstance(found, bytes) else str(found)


def _first(attributes: dict[str, list[str]], names: tuple[str, ...]) -> str:
    return next((str(attributes[name][0]) for name in names if attributes.get(name)), "")


def _auth(provider: Provider, form: dict[str, str]) -> OneLogin_Saml2_Auth:
    parts = urlsplit(provider.callback)
    request = {
        "https": "on" if parts.scheme == "https" else "off",
        "http_host": parts.netloc,
        "script_name": parts.path,
        "get_data": {},
        "post_data": form,
    }
    return OneLogin_Saml2_Auth(request, old_settings=_settings(provider))


def _settings(provider: Provider) -> dict[str, Any]:
    return {
        "strict": True,
        "debug": False,
        "sp": {
            "entityId": provider.client_id or f"{settings().public_url}/login/with/{provider.name}/metadata",
            "assertionConsumerService": {"url": provider.callback, "binding": _POST},
            "NameIDFormat": "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
        },
        "idp": {
            "entityId": provider.issuer,
            "singleSignOnService": {"url": provider.settings["sso_url"], "binding": _REDIRECT},
            "x509cert": provider.settings["certificate"],
        },
        "security": {
            "authnRequestsSigned": False,
            "wantAssertionsSigned": True,
            "wantNameId": True,
            "requestedAuthnContext": False,
            "rejectUnsolicitedResponsesWithInResponseTo": True,
            "rejectDeprecatedAlgorithm": True,
        },
    }
