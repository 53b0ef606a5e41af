"""What clients read before they come: RFC 8414 metadata and SMART's configuration, from one set of facts."""

from __future__ import annotations

from typing import Any

_AUTH_METHODS = ["client_secret_basic", "private_key_jwt"]
_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"]
_SCOPES = ["system/*.rs", "system/*.read"]


def server_metadata(base: str) -> dict[str, Any]:
    """RFC 8414 and OpenID Connect Discovery. No authorization endpoint: only machines sign in so far."""
    return {
        "issuer": base,
        "token_endpoint": f"{base}/oauth2/token",
        "revocation_endpoint": f"{base}/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": _AUTH_METHODS,
        "introspection_endpoint": f"{base}/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": _AUTH_METHODS,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": _AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": _ALGORITHMS,
        "scopes_supported": _SCOPES,
    }


def smart_configuration(base: str) -> dict[str, Any]:
    """SMART App Launch 2.2, section 7 (backend services)."""
    return server_metadata(base) | {
        "capabilities": ["client-confidential-symmetric", "client-confidential-asymmetric", "permission-v1",
                         "permission-v2"],
        "code_challenge_methods_supported": ["S256"],
    }  # fmt: skip
