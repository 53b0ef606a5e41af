"""$graphql at the server and at a resource (R4 3.3): the query in the address, as the body, or in JSON."""

from __future__ import annotations

from typing import Any

import orjson
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.http import read_body
from carefolio.cloud.telemetry import span
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_requests import number_of, reader_of, type_of
from carefolio.fhir.errors import error
from carefolio.mapping.serialise import dumps
from carefolio.record import graph

_LONGEST = 100_000


async def graphql(request: Request) -> Response:
    """GET, POST $graphql and [type]/[id]/$graphql: ``data`` and ``errors`` as GraphQL has them (application/json)."""
    token = await authorised(request, "", "")
    of = None
    if "type" in request.path_params:
        kind = type_of(request)
        number_of(kind, request)
        of = (kind, str(request.path_params["id"]))
    try:
        asked = await _asked(request)
        with span("graphql"):
            found = await graph.run(
                await database.pool(), reader_of(token), asked["query"], asked.get("variables"),
                asked.get("operationName"), of,
            )  # fmt: skip
    except GraphQLError as refused:
        return _json({"errors": [refused.formatted]}, 400)
    if found is None:
        raise error(404, "not-found", "no such resource, or not for this reader")
    return _json({"data": found.data} | ({"errors": found.errors} if found.errors else {}), 200)


async def _asked(request: Request) -> dict[str, Any]:
    """``query``, ``variables``, ``operationName``. Raises GraphQLError."""
    asked: Any = dict(request.query_params)
    if request.method == "POST":
        body = await read_body(request, _LONGEST)
        media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media == "application/graphql":
            asked["query"] = body.decode("utf-8", "replace")
        elif media == "application/json":
            asked = _document(body)
        else:
            raise error(415, "not-supported", "GraphQL comes as application/json or application/graphql")
    if isinstance(asked, dict) and isinstance(asked.get("variables"), str):
        asked["variables"] = _document(asked["variables"].encode())
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str) or len(asked["query"]) > _LONGEST:
        raise GraphQLError("query is needed, as text")
    if not isinstance(asked.get("variables"), dict | None) or not isinstance(asked.get("operationName"), str | None):
        raise GraphQLError("variables is an object, operationName text")
    return asked


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise GraphQLError("no JSON document") from None


def _json(made: dict[str, Any], status: int) -> Response:
    return Response(dumps(made), status, media_type="application/json")
