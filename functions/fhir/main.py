"""FHIR R4 for apps."""

from __future__ import annotations

import functions_framework.aio
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.doors import fhir as door
from carefolio.doors import fhir_graphql, fhir_stats
from carefolio.doors import fhir_jobs as jobs
from carefolio.doors import fhir_messages as messages
from carefolio.doors import fhir_operations as operations
from carefolio.doors import fhir_subscriptions as subscriptions
from carefolio.doors import fhir_terminology as terminology
from carefolio.doors.fhir_answers import outcome

_ROOT = "/fhir/R4"
_DOOR = door.FhirDoor(
    "fhir",
    [
        *health_routes(_ROOT),
        Route(f"{_ROOT}/metadata", door.metadata, methods=["GET"]),
        Route(f"{_ROOT}/.well-known/smart-configuration", door.smart_configuration, methods=["GET"]),
        Route(f"{_ROOT}/_history", door.history, methods=["GET"]),
        Route(f"{_ROOT}/_search", door.search_system, methods=["POST"]),
        Route(f"{_ROOT}/$export", jobs.export_system, methods=["GET", "POST"]),
        Route(f"{_ROOT}/$import", jobs.import_files, methods=["POST"]),
        Route(f"{_ROOT}/Patient/$export", jobs.export_patients, methods=["GET", "POST"]),
        Route(f"{_ROOT}/Group/{{id}}/$export", jobs.export_group, methods=["GET", "POST"]),
        Route(f"{_ROOT}/$job/{{job}}", jobs.status, methods=["GET"]),
        Route(f"{_ROOT}/$job/{{job}}", jobs.cancel, methods=["DELETE"]),
        Route(f"{_ROOT}/$job/{{job}}/{{file}}", jobs.fetch, methods=["GET"]),
        Route(f"{_ROOT}/Patient/{{id}}/$everything", operations.everything, methods=["GET"]),
        Route(f"{_ROOT}/$versions", operations.versions, methods=["GET"]),
        Route(f"{_ROOT}/$convert", operations.convert, methods=["POST"]),
        Route(f"{_ROOT}/Composition/{{id}}/$document", operations.composed_document, methods=["GET"]),
        Route(f"{_ROOT}/Patient/$match", operations.match, methods=["POST"]),
        Route(f"{_ROOT}/Patient/$process-message", messages.process_message, methods=["POST"]),
        Route(f"{_ROOT}/Patient/{{id}}/$summary", operations.patient_summary, methods=["GET"]),
        Route(f"{_ROOT}/Observation/$lastn", operations.lastn, methods=["GET", "POST"]),
        Route(f"{_ROOT}/Observation/$stats", fhir_stats.observation_stats, methods=["GET", "POST"]),
        Route(f"{_ROOT}/CodeSystem/$lookup", terminology.lookup, methods=["GET", "POST"]),
        *(
            Route(f"{_ROOT}/{kind}{at}/${name}", operation, methods=["GET", "POST"])
            for kind, name, operation in (
                ("CodeSystem", "validate-code", terminology.validate_code_of_system),
                ("CodeSystem", "subsumes", terminology.subsumes),
                ("ValueSet", "validate-code", terminology.validate_code),
                ("ValueSet", "expand", terminology.expand),
                ("ConceptMap", "translate", terminology.translate),
            )
            for at in ("", "/{id}")
        ),
        Route(f"{_ROOT}/Subscription/$status", subscriptions.status, methods=["GET", "POST"]),
        Route(f"{_ROOT}/Subscription/{{id}}/$status", subscriptions.status, methods=["GET", "POST"]),
        Route(f"{_ROOT}/Subscription/{{id}}/$events", subscriptions.events, methods=["GET", "POST"]),
        Route(f"{_ROOT}/$graphql", fhir_graphql.graphql, methods=["GET", "POST"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/$graphql", fhir_graphql.graphql, methods=["GET", "POST"]),
        Route(f"{_ROOT}/{{type}}/$validate", operations.validate_resource, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/$validate", operations.validate_resource, methods=["GET", "POST"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/$meta", operations.meta, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/_history/{{version}}/$meta", operations.meta, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/$meta-add", operations.meta_add, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/$meta-delete", operations.meta_delete, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}/_search", door.search_type, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}/_history", door.history, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/_history", door.history, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}/_history/{{version}}", door.vread, methods=["GET"]),
        Route(f"{_ROOT}/Patient/{{patient}}/{{type}}", door.search_type, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}", door.read, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/{{id}}", door.update, methods=["PUT"]),
        Route(f"{_ROOT}/{{type}}/{{id}}", door.patch, methods=["PATCH"]),
        Route(f"{_ROOT}/{{type}}/{{id}}", door.delete, methods=["DELETE"]),
        Route(f"{_ROOT}/{{type}}", door.search_type, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}", door.create, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}", door.update, methods=["PUT"]),
        Route(f"{_ROOT}/{{type}}", door.patch, methods=["PATCH"]),
        Route(f"{_ROOT}/{{type}}", door.delete, methods=["DELETE"]),
        Route(_ROOT, door.search_system, methods=["GET"]),
        Route(f"{_ROOT}/", door.search_system, methods=["GET"]),
        Route(_ROOT, door.bundle, methods=["POST"]),
        Route(f"{_ROOT}/", door.bundle, methods=["POST"]),
    ],
    outcome,
)
# An app in a browser calls from its own site (SMART App Launch 2.2); no cookie takes part in it.
_OPEN = CORSMiddleware(
    _DOOR,
    allow_origins=["*"],
    allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
    allow_headers=["Authorization", "Content-Type", "If-Match", "If-Modified-Since", "If-None-Exist", "If-None-Match",
                   "Prefer", "X-Requested-With"],
    expose_headers=["Content-Location", "ETag", "Expires", "Last-Modified", "Location", "Retry-After", "X-Progress"],
    max_age=3600,
)  # fmt: skip
# The cheapest level: it is the line that is slow, not the reader.
_APP = GZipMiddleware(_OPEN, minimum_size=1000, compresslevel=1)


@functions_framework.aio.http
async def fhir(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
