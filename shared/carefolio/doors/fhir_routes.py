"""Every address of the FHIR endpoint, for the function that serves it and the one that does later what can wait."""

from __future__ import annotations

from starlette.routing import Route

from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Endpoint
from carefolio.doors import fhir as door
from carefolio.doors import fhir_graphql, fhir_later, fhir_stats
from carefolio.doors import fhir_jobs as jobs
from carefolio.doors import fhir_messages as messages
from carefolio.doors import fhir_operations as operations
from carefolio.doors import fhir_subscriptions as subscriptions
from carefolio.doors import fhir_terminology as terminology
from carefolio.doors.fhir_answers import outcome

ROOT = "/fhir/R4"
# Answered at once, whatever is preferred; bulk data has its own way to be later.
_NOW: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/metadata", door.metadata),
    ("GET", "/.well-known/smart-configuration", door.smart_configuration),
    ("GET", "/$versions", operations.versions),
    ("GET POST", "/$export", jobs.export_system),
    ("POST", "/$import", jobs.import_files),
    ("GET POST", "/Patient/$export", jobs.export_patients),
    ("GET POST", "/Group/{id}/$export", jobs.export_group),
    ("GET", "/$job/{job}", jobs.status),
    ("DELETE", "/$job/{job}", jobs.cancel),
    ("GET", "/$job/{job}/{file}", jobs.fetch),
)
_OPERATIONS: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/Patient/{id}/$everything", operations.everything),
    ("POST", "/$convert", operations.convert),
    ("GET", "/Composition/{id}/$document", operations.composed_document),
    ("POST", "/Patient/$match", operations.match),
    ("POST", "/Patient/$process-message", messages.process_message),
    ("GET", "/Patient/{id}/$summary", operations.patient_summary),
    ("GET POST", "/Observation/$lastn", operations.lastn),
    ("GET POST", "/Observation/$stats", fhir_stats.observation_stats),
    ("GET POST", "/CodeSystem/$lookup", terminology.lookup),
    *(
        ("GET POST", f"/{kind}{at}/${name}", operation)
        for kind, name, operation in (
            ("CodeSystem", "validate-code", terminology.validate_code_of_system),
            ("CodeSystem", "subsumes", terminology.subsumes),
            ("ValueSet", "validate-code", terminology.validate_code),
            ("ValueSet", "expand", terminology.expand),
            ("ConceptMap", "translate", terminology.translate),
        )
        for at in ("", "/{id}")
    ),
    ("GET POST", "/Subscription/$status", subscriptions.status),
    ("GET POST", "/Subscription/{id}/$status", subscriptions.status),
    ("GET POST", "/Subscription/{id}/$events", subscriptions.events),
    ("GET POST", "/$graphql", fhir_graphql.graphql),
    ("GET POST", "/{type}/{id}/$graphql", fhir_graphql.graphql),
    ("POST", "/{type}/$validate", operations.validate_resource),
    ("GET POST", "/{type}/{id}/$validate", operations.validate_resource),
    ("GET", "/{type}/{id}/$meta", operations.meta),
    ("GET", "/{type}/{id}/_history/{version}/$meta", operations.meta),
    ("POST", "/{type}/{id}/$meta-add", operations.meta_add),
    ("POST", "/{type}/{id}/$meta-delete", operations.meta_delete),
)
_INTERACTIONS: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/_history", door.history),
    ("POST", "/_search", door.search_system),
    ("POST", "/{type}/_search", door.search_type),
    ("GET", "/{type}/_history", door.history),
    ("GET", "/{type}/{id}/_history", door.history),
    ("GET", "/{type}/{id}/_history/{version}", door.vread),
    ("GET", "/Patient/{patient}/{type}", door.search_type),
    ("GET", "/{type}/{id}", door.read),
    ("PUT", "/{type}/{id}", door.update),
    ("PATCH", "/{type}/{id}", door.patch),
    ("DELETE", "/{type}/{id}", door.delete),
    ("GET", "/{type}", door.search_type),
    ("POST", "/{type}", door.create),
    ("PUT", "/{type}", door.update),
    ("PATCH", "/{type}", door.patch),
    ("DELETE", "/{type}", door.delete),
    *((method, path, endpoint) for path in ("", "/") for method, endpoint in (
        ("GET", door.search_system), ("POST", door.bundle),
    )),
)  # fmt: skip
DOOR = door.FhirDoor(
    "fhir",
    [
        *health_routes(ROOT),
        *(Route(f"{ROOT}{path}", endpoint, methods=methods.split()) for methods, path, endpoint in _NOW),
        *(
            # The search of a type is bulk data.
            Route(f"{ROOT}{path}", endpoint if endpoint is door.search_type else fhir_later.or_later(endpoint),
                  methods=methods.split())
            for methods, path, endpoint in (*_OPERATIONS, *_INTERACTIONS)
        ),
    ],
    outcome,
)  # fmt: skip
