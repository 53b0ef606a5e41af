"""What clients read before they come: RFC 8414 metadata and SMART's configuration, from one set of facts."""

from __future__ import annotations

from typing import Any

from carefolio.identity.clients import ALGORITHMS, PUBLISHED_METHODS
from carefolio.identity.scopes import PERSONAL

_SCOPES = [
    *PERSONAL, "patient/*.rs", "patient/*.cruds", "user/*.rs", "user/*.cruds", "system/*.rs", "system/*.cruds",
    "patient/*.read", "patient/*.write", "user/*.read", "user/*.write", "system/*.read", "system/*.write",
]  # fmt: skip
_CAPABILITIES = [
    "launch-ehr", "launch-standalone", "authorize-post", "client-public", "client-confidential-symmetric",
    "client-confidential-asymmetric", "sso-openid-connect", "context-banner", "context-ehr-patient",
    "context-standalone-patient", "permission-offline", "permission-online", "permission-patient", "permission-user",
    "permission-v1", "permission-v2",
]  # fmt: skip


def server_metadata(base: str) -> dict[str, Any]:
    """RFC 8414 and OpenID Connect Discovery 1.0."""
    return {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth2/authorize",
        "token_endpoint": f"{base}/oauth2/token",
        "userinfo_endpoint": f"{base}/oauth2/userinfo",
        "registration_endpoint": f"{base}/oauth2/register",
        "pushed_authorization_request_endpoint": f"{base}/oauth2/par",
        "device_authorization_endpoint": f"{base}/oauth2/device_authorization",
        "revocation_endpoint": f"{base}/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": list(PUBLISHED_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint": f"{base}/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": list(PUBLISHED_METHODS[:3]),
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": [
            "authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": list(PUBLISHED_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "request_parameter_supported": True,
        "request_uri_parameter_supported": False,
        "request_object_signing_alg_values_supported": ALGORITHMS,
        "authorization_response_iss_parameter_supported": True,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "acr_values_supported": ["strong", "weak"],
        "claims_supported": [
            "sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "amr", "acr", "name", "email", "email_verified",
            "profile", "fhirUser",
        ],
        "prompt_values_supported": ["none", "login", "consent"],
        "scopes_supported": _SCOPES,
    }  # fmt: skip


def smart_configuration(base: str) -> dict[str, Any]:
    """SMART App Launch 2.2, section 7."""
    return server_metadata(base) | {
        "capabilities": _CAPABILITIES,
        "management_endpoint": f"{base}/account",
    }
