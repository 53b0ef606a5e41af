"""The token endpoint: good clients get a token of ten minutes, everybody else a clear refusal."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from tests.conftest import Hospital, NewHospital, Reply, basic, unique

from carefolio.identity import tokens

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def token(hospital: Hospital, form: dict[str, str], **headers: str) -> Reply:
    return await hospital.request("POST", "/oauth2/token", data=form, headers=headers)


def decoded(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = text.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims))  # type: ignore[return-value]


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


async def test_client_credentials_give_a_token_of_ten_minutes(hospital: Hospital) -> None:
    authorization = basic(hospital.client["client_id"], hospital.client["client_secret"])
    reply = await token(hospital, {"grant_type": "client_credentials"}, Authorization=authorization)
    assert reply.status == 200
    assert reply.json["token_type"] == "Bearer"
    assert reply.json["expires_in"] == 600
    assert reply.json["scope"] == "system/*.rs"
    header, claims = decoded(reply.json["access_token"])
    assert header["typ"] == "at+jwt"
    assert claims["exp"] - claims["iat"] == 600
    assert claims["client_id"] == claims["sub"] == hospital.client["client_id"]
    assert reply.headers["Cache-Control"] == "no-store"
    published = (await hospital.request("GET", "/.well-known/jwks.json")).json["keys"]
    assert header["kid"] in [key["kid"] for key in published]
    assert all("d" not in key for key in published)


async def test_a_narrower_scope_can_be_asked_for(hospital: Hospital) -> None:
    authorization = basic(hospital.client["client_id"], hospital.client["client_secret"])
    form = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
    reply = await token(hospital, form, Authorization=authorization)
    assert reply.json["scope"] == "system/Observation.rs"
    opened = {"Authorization": f"Bearer {reply.json['access_token']}"}
    assert (await hospital.request("GET", "/fhir/R4/Observation", headers=opened)).status == 200
    assert (await hospital.request("GET", "/fhir/R4/Patient", headers=opened)).status == 403


@pytest.mark.parametrize("scope", ["system/*.cruds", "patient/*.rs", "nonsense", "system/Observation.rs openid"])
async def test_more_than_the_client_has_is_refused(hospital: Hospital, scope: str) -> None:
    authorization = basic(hospital.client["client_id"], hospital.client["client_secret"])
    reply = await token(hospital, {"grant_type": "client_credentials", "scope": scope}, Authorization=authorization)
    assert reply.status == 400
    assert reply.json["error"] == "invalid_scope"


@pytest.mark.parametrize(
    ("form", "authorization", "status", "error"),
    [
        ({"grant_type": "client_credentials"}, "", 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, basic("nobody", "nothing"), 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, "Basic !!!!", 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), 401,
         "invalid_client"),
        ({"grant_type": "client_credentials"}, basic("a\x00b", "c"), 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, "Basic \xe9", 401, "invalid_client"),
        ({"grant_type": "password"}, "", 400, "unsupported_grant_type"),
        ({}, "", 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials", "client_assertion_type": ASSERTION, "client_assertion": "x.y.z"}, "",
         401, "invalid_client"),
        ({"grant_type": "client_credentials", "client_assertion_type": ASSERTION, "client_assertion": ""}, "", 401,
         "invalid_client"),
    ],
)  # fmt: skip
async def test_refusals(hospital: Hospital, form: dict[str, str], authorization: str, status: int, error: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    reply = await token(hospital, form, **headers)
    assert (reply.status, reply.json.get("error")) == (status, error)


async def test_a_wrong_secret_is_refused(hospital: Hospital) -> None:
    authorization = basic(hospital.client["client_id"], hospital.client["client_secret"] + "x")
    reply = await token(hospital, {"grant_type": "client_credentials"}, Authorization=authorization)
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")


Signer = Callable[..., dict[str, str]]


@pytest.fixture(params=["ES384", "RS384"])
async def signing_client(request: pytest.FixtureRequest, hospital: Hospital, tmp_path: Path) -> Signer:
    """A client with a key of its own; called, it gives the form of a token request."""
    algorithm = request.param
    key = ECKey.generate_key("P-384") if algorithm.startswith("ES") else RSAKey.generate_key(2048)
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False) | {"kid": "one", "alg": algorithm}]}))
    made = hospital.installation.cli(
        "client", "add", "signer", "--organisation", hospital.ods_code, "--scope", "system/*.rs",
        "--jwks", str(keys), "--json",
    )  # fmt: skip
    created = json.loads(made.stdout)
    assert "client_secret" not in created
    client_id = created["client_id"]

    def form(header: dict[str, Any] | None = None, **claims: Any) -> dict[str, str]:
        now = int(time.time())
        good = {
            "iss": client_id,
            "sub": client_id,
            "aud": f"{hospital.installation.url}/oauth2/token",
            "exp": now + 120,
            "jti": unique("jti"),
        }
        wanted = {"alg": algorithm, "kid": "one"} | (header or {})
        assertion = jwt.encode(wanted, {**good, **claims}, key, algorithms=[str(wanted["alg"])])
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION,
            "client_assertion": assertion,
        }

    return form


async def test_private_key_jwt(hospital: Hospital, signing_client: Signer) -> None:
    reply = await token(hospital, signing_client())
    assert reply.status == 200, reply.body
    opened = {"Authorization": f"Bearer {reply.json['access_token']}"}
    assert (await hospital.request("GET", "/fhir/R4/Observation", headers=opened)).status == 200


async def test_an_assertion_is_good_for_one_use(hospital: Hospital, signing_client: Signer) -> None:
    form = signing_client()
    assert (await token(hospital, form)).status == 200
    assert (await token(hospital, form)).status == 401


async def test_assertions_that_are_not_good(hospital: Hospital, signing_client: Signer) -> None:
    for claims in (
        {"aud": "https://elsewhere.example"},
        {"exp": int(time.time()) - 600},
        {"exp": int(time.time()) + 86_400},
        {"iss": "somebody"},
        {"sub": "somebody"},
        {"sub": 7},
        {"jti": 7},
        {"jti": "a\x00b"},
        {"sub": "a\x00b", "iss": "a\x00b"},
        {"sub": hospital.client["client_id"], "iss": hospital.client["client_id"]},
    ):
        reply = await token(hospital, signing_client(**claims))
        assert (reply.status, reply.json["error"]) == (401, "invalid_client"), claims


async def test_an_unsigned_assertion_is_refused(hospital: Hospital, signing_client: Signer) -> None:
    form = signing_client()
    head = encoded(b'{"alg":"none"}')
    form["client_assertion"] = f"{head}.{form['client_assertion'].split('.')[1]}."
    assert (await token(hospital, form)).status == 401


async def test_a_forged_token_opens_nothing(hospital: Hospital) -> None:
    good = await hospital.authorize()
    header, claims, signature = good.split(".")
    stranger = ECKey.generate_key("P-256")
    kid = decoded(good)[0]["kid"]
    forged = [
        f"{header}.{claims}.{signature[:-4]}AAAA",
        f"{encoded(b'{}')}.{claims}.{signature}",
        jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": kid}, decoded(good)[1], stranger),
        encoded(b'{"alg":"none","typ":"at+jwt"}') + f".{claims}.",
        good + ".x",
        "a.b.c",
    ]
    for text in forged:
        reply = await hospital.request("GET", "/fhir/R4/Patient", headers={"Authorization": f"Bearer {text}"})
        assert reply.status == 401, text


async def test_discovery_is_consistent(hospital: Hospital) -> None:
    openid = (await hospital.request("GET", "/.well-known/openid-configuration")).json
    smart = (await hospital.request("GET", "/fhir/R4/.well-known/smart-configuration")).json
    assert openid["issuer"] == smart["issuer"] == hospital.installation.url
    assert openid["token_endpoint"] == smart["token_endpoint"] == f"{hospital.installation.url}/oauth2/token"
    assert "private_key_jwt" in smart["token_endpoint_auth_methods_supported"]
    assert "client-confidential-asymmetric" in smart["capabilities"]
    assert (await hospital.request("GET", openid["jwks_uri"].removeprefix(hospital.installation.url))).status == 200


async def issued(hospital: Hospital, client: dict[str, str]) -> str:
    authorization = basic(client["client_id"], client["client_secret"])
    reply = await token(hospital, {"grant_type": "client_credentials"}, Authorization=authorization)
    assert reply.status == 200, reply.body
    return str(reply.json["access_token"])


async def about(hospital: Hospital, endpoint: str, text: str, client: dict[str, str]) -> Reply:
    headers = {"Authorization": basic(client["client_id"], client["client_secret"])}
    return await hospital.request("POST", f"/oauth2/{endpoint}", data={"token": text}, headers=headers)


async def test_a_client_asks_about_its_tokens_and_ends_them(hospital: Hospital, new_hospital: NewHospital) -> None:
    text = await issued(hospital, hospital.client)
    told = (await about(hospital, "introspect", text, hospital.client)).json
    assert (told["active"], told["scope"], told["client_id"]) == (True, "system/*.rs", hospital.client["client_id"])
    other = (await new_hospital()).client
    assert (await about(hospital, "introspect", text, other)).json == {"active": False}
    assert (await about(hospital, "introspect", "rubbish", hospital.client)).json == {"active": False}
    assert (await about(hospital, "revoke", text, other)).status == 400
    assert (await about(hospital, "introspect", text, hospital.client)).json["active"] is True
    assert (await about(hospital, "revoke", text, hospital.client)).status == 200
    assert (await about(hospital, "introspect", text, hospital.client)).json == {"active": False}
    assert (await about(hospital, "revoke", "rubbish", hospital.client)).status == 200
    unknown = {"client_id": "nobody", "client_secret": "x"}
    assert (await about(hospital, "revoke", text, unknown)).status == 401
    assert (await about(hospital, "introspect", text, unknown)).status == 401
    missing = await hospital.request(
        "POST",
        "/oauth2/introspect",
        data={"a": "b"},
        headers={"Authorization": basic(hospital.client["client_id"], hospital.client["client_secret"])},
    )
    assert (missing.status, missing.json["error"]) == (400, "invalid_request")


async def test_what_was_ended_opens_nothing(
    new_hospital: NewHospital, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which does not wait for what it knows to grow old."""
    hospital = await new_hospital()
    first, second = [await issued(hospital, hospital.client) for _ in range(2)]
    monkeypatch.setattr(tokens, "_ENDED_KNOWN", -1)
    assert (await tokens.verify(pool, first)).client_id == hospital.client["client_id"]
    await about(hospital, "revoke", first, hospital.client)
    with pytest.raises(tokens.InvalidTokenError, match="revoked"):
        await tokens.verify(pool, first)
    await tokens.verify(pool, second)
    hospital.installation.cli("client", "end", hospital.client["client_id"])
    with pytest.raises(tokens.InvalidTokenError, match="revoked"):
        await tokens.verify(pool, second)
    authorization = basic(hospital.client["client_id"], hospital.client["client_secret"])
    refused = await token(hospital, {"grant_type": "client_credentials"}, Authorization=authorization)
    assert (refused.status, refused.json["error"]) == (401, "invalid_client")
    assert "no client" in hospital.installation.cli("client", "end", "nobody", check=False).stderr
