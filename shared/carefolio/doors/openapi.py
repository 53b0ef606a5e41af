"""What the REST endpoints' table says of itself: an OpenAPI 3.1 document, and a page to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from carefolio.cloud.settings import settings
from carefolio.doors import rest
from carefolio.doors.rest import BASE, LONGEST_KEY, MOST, PATIENT, PROBLEM, PROFESSIONAL, SYSTEM, Endpoint

# What a part of a path may be.
_NAME = r"^[A-Za-z0-9._-]{1,100}$"
_ABOUT = (rest.__doc__ or "").strip()


@lru_cache(maxsize=1)
def document(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the table."""
    models = {model for each in endpoints for model in (each.body, each.answer) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        paths.setdefault(BASE + each.path, {})[each.method.lower()] = _operation(each)
    problem_schema = {
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                       "detail": {"type": "string"}},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "Carefolio", "version": "1", "description": _ABOUT},
        "servers": [{"url": settings().public_url}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Problem": problem_schema},
            "securitySchemes": {
                "oauth2": {
                    "type": "oauth2",
                    "flows": {
                        "authorizationCode": {
                            "authorizationUrl": f"{settings().public_url}/oauth2/authorize",
                            "tokenUrl": f"{settings().public_url}/oauth2/token",
                            "scopes": _scopes(endpoints),
                        },
                        "clientCredentials": {
                            "tokenUrl": f"{settings().public_url}/oauth2/token",
                            "scopes": _scopes(endpoints),
                        },
                    },
                }
            },
        },
    }


def _scope(endpoint: Endpoint, who: str) -> str:
    context = {PATIENT: "patient", PROFESSIONAL: "user", SYSTEM: "system"}[who]
    return f"{context}/{endpoint.area}.{endpoint.right}"


def _scopes(endpoints: Sequence[Endpoint]) -> dict[str, str]:
    return {_scope(each, who): each.area for each in endpoints for who in each.who}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    names = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _NAME}} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string", "maxLength": 100}}
        for name, meaning in endpoint.query
    ]
    if endpoint.paged:
        counted = {"type": "integer", "minimum": 1, "maximum": MOST, "default": rest.COUNT}
        parameters.append({"name": "count", "in": "query", "schema": counted})
        parameters.append({"name": "cursor", "in": "query", "description": "as `next` of a page said it",
                           "schema": {"type": "string", "maxLength": 2000}})  # fmt: skip
    if endpoint.method == "POST":
        parameters.append({"name": "Idempotency-Key", "in": "header",
                           "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY}})  # fmt: skip
    failed = {
        "description": "what was wrong",
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    done: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.answer is not None:
        schema = {"$ref": f"#/components/schemas/{endpoint.answer.__name__}"}
        done["content"] = {"application/json": {"schema": schema}}
    if endpoint.media:
        done["content"] = {endpoint.media: {"schema": {"type": "string", "format": "binary"}}}
    said: dict[str, Any] = {
        "operationId": endpoint.work.__name__,
        "summary": endpoint.summary,
        "tags": [endpoint.area],
        "security": [{"oauth2": [_scope(endpoint, who)]} for who in endpoint.who],
        "parameters": parameters,
        "responses": {str(endpoint.status if endpoint.answer is not None or endpoint.media else 204): done}
        | {str(code): failed for code in (400, 401, 403, 404, 409, 412, 413, 415, 422, 502, 503)},
    }
    if endpoint.body is not None:
        schema = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
        said["requestBody"] = {
            "required": rest.needs_body(endpoint.body),
            "content": {"application/json": {"schema": schema}},
        }
    return said


def page(endpoints: Sequence[Endpoint]) -> str:
    """The document as a page to read: plain HTML, without scripts and styles."""
    by_area: dict[str, list[Endpoint]] = {}
    for each in endpoints:
        by_area.setdefault(each.area, []).append(each)
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Carefolio REST API</title>",
             f"<h1>Carefolio REST API</h1><p>{escape(_ABOUT)}</p>",
             '<p>For machines: <a href="/api/v1/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>']  # fmt: skip
    for area, listed in by_area.items():
        parts.append(f"<h2>{escape(area)}</h2><table><tr><th>Request<th>What it does<th>Scope<th>Body<th>Answer</tr>")
        for each in listed:
            scopes = ", ".join(_scope(each, who) for who in each.who)
            body = _members(each.body) if each.body else ""
            answer = _members(each.answer) if each.answer else each.media or "204"
            parts.append(f"<tr><td><code>{each.method} {escape(BASE + each.path)}</code><td>{escape(each.summary)}"
                         f"<td><code>{escape(scopes)}</code><td>{escape(body)}<td>{escape(answer)}</tr>")  # fmt: skip
        parts.append("</table>")
    return "".join(parts)


def _members(model: type[BaseModel]) -> str:
    root = model.model_fields.get("root")
    if root is not None:
        shown = root.annotation
        return ", ".join(each.name for each in fields(shown)) if is_dataclass(shown) else (model.__doc__ or "").strip()
    return ", ".join(name + ("" if field.is_required() else "?") for name, field in model.model_fields.items())
