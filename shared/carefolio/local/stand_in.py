"""A stand-in NHS login, organisation's provider, NHS App and national register of patients, with test people.

They follow the published interfaces (NHS login's Interface Specification - Federation; OpenID Connect Core), for one
machine: whoever is at the browser is whom he says he is.
"""

from __future__ import annotations

import json
import secrets as random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router

from carefolio.cloud import secrets
from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import demographics, providers

KEY = "stand-in-key"
CLIENT_KEY = "stand-in-client-key"
CLIENT_ID = "carefolio"
CLIENT_SECRET = "stand-in-client-secret"  # noqa: S105 - the secret's name
_CODE_SECONDS = 600


@dataclass(slots=True)
class Person:
    """A test person. ``claims`` are what the provider says; ``vot`` how well it knows him (NHS login)."""

    name: str
    claims: dict[str, Any]
    vot: str = "P9.Cp.Cd"


@dataclass(slots=True)
class StandIn:
    """One provider. ``codes`` are what it gave out: code -> request and person."""

    path: str
    title: str
    nhs_login: bool
    people: dict[str, Person]
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        return f"{settings().public_url}{self.path}"

    def routes(self) -> list[Route]:
        return [
            Route(f"{self.path}/.well-known/openid-configuration", self.metadata),
            Route(f"{self.path}/keys", self.keys),
            Route(f"{self.path}/authorize", self.authorize),
            Route(f"{self.path}/choose", self.choose, methods=["POST"]),
            Route(f"{self.path}/token", self.token, methods=["POST"]),
            Route(f"{self.path}/userinfo", self.userinfo),
        ]

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "jwks_uri": f"{self.issuer}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": [self.algorithm],
            }
        )

    @property
    def algorithm(self) -> str:
        return "RS512" if self.nhs_login else "RS256"

    async def keys(self, request: Request) -> Response:
        return JSONResponse(KeySet([RSAKey.import_key(_key(KEY).as_dict(private=False))]).as_dict())

    async def authorize(self, request: Request) -> Response:
        """Who are you? With the NHS App's word for it (prompt=none) nobody is asked."""
        query = dict(request.query_params)
        if query.get("client_id") != CLIENT_ID or not query.get("redirect_uri", "").startswith(settings().public_url):
            return HTMLResponse("unknown client", 400)
        if query.get("prompt") == "none":
            try:
                token = jwt.decode(query.get("asserted_login_identity", ""), _key(KEY), algorithms=["RS512"])
                person = str(token.claims["code"])
                if token.claims["exp"] < time.time() or person not in self.people:
                    raise ValueError
            except (JoseError, ValueError, KeyError):
                return self._back(query, {"error": "sso_login_required"})
            return self._code(query, person)
        buttons = Markup("").join(
            Markup('<p><button name="person" value="{}">{}</button></p>').format(key, person.name)
            for key, person in self.people.items()
        )
        refuse = Markup(
            '<p><button class="second" name="person" value="">I do not want to share my information</button></p>'
        )
        return _page(
            self.title,
            Markup(
                '<form method="post" action="{}/choose"><input type="hidden" name="query" value="{}">{}{}</form>'
            ).format(self.path, json.dumps(query), buttons, refuse),
        )

    async def choose(self, request: Request) -> Response:
        form = await _form(request)
        query = json.loads(form["query"])
        if form.get("person") not in self.people:
            described = {"error_description": "ConsentNotGiven"} if self.nhs_login else {}
            return self._back(query, {"error": "access_denied"} | described)
        return self._code(query, form["person"])

    def _code(self, query: dict[str, str], person: str) -> Response:
        code = random.token_urlsafe(32)
        self.codes[code] = {"query": query, "person": person, "until": time.time() + _CODE_SECONDS}
        return self._back(query, {"code": code})

    def _back(self, query: dict[str, str], told: dict[str, str]) -> Response:
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(told | {'state': query.get('state', '')})}", 303)

    async def token(self, request: Request) -> Response:
        form = await _form(request)
        kept = self.codes.pop(form.get("code", ""), None)
        if kept is None or kept["until"] < time.time() or not self._is_client(request, form):
            return JSONResponse({"error": "invalid_grant"}, 400)
        query, person, now = kept["query"], self.people[kept["person"]], int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer, "aud": CLIENT_ID, "sub": _subject(self.path, kept["person"]), "iat": now,
            "exp": now + 3600, "nonce": query.get("nonce"), "auth_time": now,
        }  # fmt: skip
        if self.nhs_login:
            claims |= {"vot": person.vot, "vtm": f"{self.issuer}/trustmark"}
        key = _key(KEY)
        access = random.token_urlsafe(32)
        self.tokens[access] = person.claims | {"sub": claims["sub"]}
        return JSONResponse(
            {
                "access_token": access,
                "token_type": "Bearer",
                "expires_in": 300,
                "scope": query.get("scope", ""),
                "id_token": jwt.encode({"alg": self.algorithm, "kid": key.kid}, claims, key, [self.algorithm]),
            }
        )

    def _is_client(self, request: Request, form: dict[str, str]) -> bool:
        """NHS login knows us by our key, an organisation by a secret."""
        if not self.nhs_login:
            return request.headers.get("authorization", "").startswith("Basic ")
        try:
            token = jwt.decode(form.get("client_assertion", ""), _key(CLIENT_KEY), algorithms=["RS512"])
        except (JoseError, ValueError):
            return False
        claims = token.claims
        return (
            claims.get("sub") == CLIENT_ID
            and claims.get("exp", 0) > time.time()
            and self.issuer in str(claims.get("aud"))
        )

    async def userinfo(self, request: Request) -> Response:
        known = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return JSONResponse(known) if known else JSONResponse({"error": "invalid_token"}, 401)


def _subject(path: str, person: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{path}/{person}"))


def _key(name: str) -> RSAKey:
    return RSAKey.import_key(json.loads(secrets.read(name)))


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))


def _page(title: str, body: Markup) -> Response:
    return HTMLResponse(
        Markup(
            '<!doctype html><html lang="en-GB"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>{}</title>'
            '<link rel="stylesheet" href="/login/static/carefolio.css">'
            '<div class="stand-in">A stand-in of this machine, not the real service</div><main><h1>{}</h1>{}</main>'
        ).format(title, title, body)
    )


def _patient(given: str, family: str, nhs_number: str | None, born: str, **more: Any) -> dict[str, Any]:
    claims = {"nhs_number": nhs_number, "birthdate": born, "family_name": family, "given_name": given,
              "identity_proofing_level": "P9", "email": f"{given.lower()}@patient.example",
              "email_verified": True}  # fmt: skip
    return {name: value for name, value in (claims | more).items() if value is not None}


_YOUNG = f"{time.gmtime().tm_year - 12}-01-01"
_GWEN = ("Gwen", "Aldersley", "9990001103", "1958-04-12")
# The demonstration's patients, and those whom a sign-in must turn away.
NHS_LOGIN = StandIn(
    "/stand-in/nhs-login",
    "Stand-in NHS login",
    True,
    {
        "gwen": Person("Gwen Aldersley", _patient(*_GWEN)),
        "idris": Person("Idris Okonjo-Hale", _patient("Idris", "Okonjo-Hale", "9990001111", "1991-09-23")),
        "shanti": Person("Shanti Marlowe", _patient("Shanti", "Marlowe", "9990001138", "2001-11-30")),
        "unproven": Person("Somebody at P5", _patient(*_GWEN, identity_proofing_level="P5"), "P5.Cp.Cd"),
        "impostor": Person("Another date of birth", _patient("Gwen", "Aldersley", "9990001103", "1960-01-01")),
        "young": Person(
            "Somebody of 12", _patient("Robin", "Young", "9990001146", f"{time.gmtime().tm_year - 12}-01-01")
        ),
        "unnumbered": Person("Somebody without NHS number", _patient("Nia", "Blank", None, "1980-01-01")),
        "stranger": Person("Somebody without a record", _patient("Sam", "Stranger", "9990001154", "1980-01-01")),
    },
)
ORGANISATION = StandIn(
    "/stand-in/organisation",
    "Stand-in sign-in of the Whitcombe Demonstration Hospital",
    False,
    {
        "asha": Person(
            "Dr Asha Verity",
            {
                "name": "Asha Verity",
                "email": "asha.verity@whitcombe.example",
                "email_verified": True,
                "groups": ["renal"],
            },
        ),
        "morgan": Person(
            "Morgan Reyes, who runs Carefolio here",
            {"name": "Morgan Reyes", "email": "morgan.reyes@whitcombe.example", "email_verified": True},
        ),
        "outsider": Person(
            "Somebody of another organisation", {"name": "O. Sider", "email": "o.sider@elsewhere.example"}
        ),
    },
)


async def _nhs_app(request: Request) -> Response:
    """The NHS App's menu: a link to a page of ours, with its word for who it is."""
    key, now = _key(KEY), int(time.time())
    rows = Markup("")
    for name in ("gwen", "idris", "shanti"):
        claims = {"iss": "nhs-app", "code": name, "jti": str(uuid.uuid4()), "iat": now, "exp": now + 60}
        asserted = jwt.encode({"alg": "RS512", "kid": key.kid}, claims, key, ["RS512"])
        query = urlencode({"phrPath": "/account", "assertedLoginIdentity": asserted})
        rows += Markup('<p><a class="button nhs" href="/nhs-login/login?{}">{}: my health record</a></p>').format(
            query, NHS_LOGIN.people[name].name
        )
    return _page("Stand-in NHS App", rows)


_PDS_TOKEN = "stand-in-pds-token"  # noqa: S105 - what the stand-in gives everybody who signs


async def _pds_token(request: Request) -> Response:
    """A token for who signs with our key (the API's client credentials with a signed JWT)."""
    form = dict(parse_qsl((await request.body()).decode()))
    try:
        claims = jwt.decode(form.get("client_assertion", ""), _key(CLIENT_KEY), algorithms=["RS512"]).claims
    except (JoseError, ValueError):
        claims = {}
    if claims.get("sub") != CLIENT_ID or claims.get("aud") != f"{settings().public_url}/stand-in/pds/token":
        return JSONResponse({"error": "invalid_client"}, 401)
    return JSONResponse({"access_token": _PDS_TOKEN, "token_type": "Bearer", "expires_in": "599"})


# Who is in the stand-in register: the demonstration's patients, one whose number was replaced, one who has died.
_PDS: dict[str, dict[str, Any]] = {
    number: {
        "resourceType": "Patient", "id": more.pop("id", number), "birthDate": born, "gender": gender,
        "name": [{"use": "usual", "given": [given], "family": family}],
        "meta": {"versionId": "2", "security": [{
            "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
            "code": more.pop("mark", "U")}]},
        **more,
    }
    for given, family, number, born, gender, more in (
        ("Gwen", "Aldersley", "9990001103", "1958-04-12", "female", {}),
        ("Idris", "Okonjo-Hale", "9990001111", "1991-09-23", "male", {}),
        ("Ada", "Replaced", "9990001162", "1970-01-01", "female", {"id": "9990001170"}),
        ("Hal", "Late", "9990001189", "1930-01-01", "male", {"deceasedDateTime": "2020-01-01"}),
        ("Sal", "Hidden", "9990001197", "1980-01-01", "female", {"mark": "R"}),
    )
}  # fmt: skip


async def _pds_patient(request: Request) -> Response:
    """GET Patient/[NHS number], as the Personal Demographics Service answers."""
    if request.headers.get("authorization") != f"Bearer {_PDS_TOKEN}" or "x-request-id" not in request.headers:
        return JSONResponse({"resourceType": "OperationOutcome"}, 401)
    found = _PDS.get(request.path_params["number"])
    if found is not None:
        return JSONResponse(found)
    coding = {"system": "https://fhir.nhs.uk/R4/CodeSystem/Spine-ErrorOrWarningCode", "code": "RESOURCE_NOT_FOUND"}
    issue = {"severity": "error", "code": "not_found", "details": {"coding": [coding]}}
    return JSONResponse({"resourceType": "OperationOutcome", "issue": [issue]}, 404)


_PDS_ROUTES = (
    Route("/stand-in/pds/token", _pds_token, methods=["POST"]),
    Route("/stand-in/pds/FHIR/R4/Patient/{number}", _pds_patient),
)
stand_ins = Router([*NHS_LOGIN.routes(), *ORGANISATION.routes(), Route("/stand-in/nhs-app", _nhs_app), *_PDS_ROUTES])


def make_keys() -> None:
    """The keys of the stand-ins, and ours at the stand-in NHS login."""
    for name in (KEY, CLIENT_KEY):
        if not (settings().secrets_dir / name).exists():
            key = RSAKey.generate_key(2048, {"use": "sig"}, private=True, auto_kid=True)
            secrets.write(name, json.dumps(key.as_dict(private=True)).encode())
    # Ours at the stand-in register is the same as at the stand-in NHS login.
    secrets.write(demographics.SECRET, secrets.read(CLIENT_KEY))


async def register(pool: Pool, organisation: str) -> None:
    """Let the sign-in page offer them."""
    if await providers.find(pool, "nhs-login") is None:
        await providers.add(
            pool, "nhs-login", providers.NHS_LOGIN, issuer=NHS_LOGIN.issuer, client_id=CLIENT_ID, title="NHS login",
            key=secrets.read(CLIENT_KEY), chosen={"stand_in": True, "nhs_app_keys": f"{NHS_LOGIN.issuer}/keys"},
        )  # fmt: skip
    if await providers.find(pool, "whitcombe") is None:
        await providers.add(
            pool, "whitcombe", providers.OIDC, issuer=ORGANISATION.issuer, client_id=CLIENT_ID,
            organisation=organisation, title="Whitcombe Demonstration Hospital", key=CLIENT_SECRET.encode(),
            domains=("whitcombe.example",), chosen={"stand_in": True},
        )  # fmt: skip
