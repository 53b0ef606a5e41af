"""The CapabilityStatement, derived from what the code does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carefolio.fhir.definitions import NO_ENDPOINT, resource_types, search_parameters
from carefolio.record.search_terms import COMMON
from carefolio.record.topics import TOPICS

_RESTFUL = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_INTERACTIONS = ("read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create",
                 "search-type")  # fmt: skip
_OF_TYPE = {"Patient": ("Patient-everything", "Patient-match"),
            "Observation": ("Observation-lastn", "Observation-stats"),
            "Composition": ("Composition-document",),
            "CodeSystem": ("CodeSystem-lookup", "CodeSystem-validate-code", "CodeSystem-subsumes"),
            "ValueSet": ("ValueSet-expand", "ValueSet-validate-code"),
            "ConceptMap": ("ConceptMap-translate",)}  # fmt: skip
_IPS = "http://hl7.org/fhir/uv/ips"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
_TOPIC = "capabilitystatement-subscriptiontopic-canonical"
_BULK = "http://hl7.org/fhir/uv/bulkdata"
_OPERATIONS = ("Resource-meta", "Resource-meta-add", "Resource-meta-delete", "Resource-validate")


def statement(base: str, when: str) -> dict[str, Any]:
    """FHIR R4 CapabilityStatement of the server at ``base``; ``when`` is a FHIR dateTime."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": when,
        "kind": "instance",
        "software": {"name": "Carefolio"},
        "implementation": {"description": "Carefolio FHIR R4", "url": f"{base}/fhir/R4"},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json", "application/fhir+xml", "xml"],
        "instantiates": [f"{_BULK}/CapabilityStatement/bulk-data"],
        "patchFormat": ["application/json-patch+json", "application/merge-patch+json", "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "cors": True,
                    "service": [{"coding": [{"system": _RESTFUL, "code": "SMART-on-FHIR"}]}],
                    "extension": [
                        {
                            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                            "extension": [
                                {"url": name, "valueUri": f"{base}{path}"}
                                for name, path in (
                                    ("authorize", "/oauth2/authorize"),
                                    ("token", "/oauth2/token"),
                                    ("register", "/oauth2/register"),
                                    ("manage", "/account"),
                                    ("introspect", "/oauth2/introspect"),
                                    ("revoke", "/oauth2/revoke"),
                                )
                            ],
                        }
                    ],
                },
                "resource": [_resource(kind) for kind in sorted(resource_types() - NO_ENDPOINT)],
                "interaction": [{"code": code} for code in ("transaction", "batch", "history-system", "search-system")],
                "operation": [
                    {"name": "export", "definition": f"{_BULK}/OperationDefinition/export"},
                    {"name": "import", "definition": f"{_BULK}/OperationDefinition/import"},
                    {"name": "graphql", "definition": "http://hl7.org/fhir/OperationDefinition/Resource-graphql"},
                    {"name": "convert", "definition": "http://hl7.org/fhir/OperationDefinition/Resource-convert"},
                    {
                        "name": "versions",
                        "definition": "http://hl7.org/fhir/OperationDefinition/CapabilityStatement-versions",
                    },
                ],
            }
        ],
    }


def terminology(base: str, when: str, systems: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """FHIR R4 TerminologyCapabilities: the code systems (URL, version) that everybody has here."""
    by_url: dict[str, list[str]] = {}
    for url, version in systems:
        by_url.setdefault(url, []).append(version)
    return {
        "resourceType": "TerminologyCapabilities",
        "status": "active",
        "date": when,
        "kind": "instance",
        "software": {"name": "Carefolio"},
        "implementation": {"description": "Carefolio FHIR R4", "url": f"{base}/fhir/R4"},
        "codeSystem": [
            {"uri": url} | ({"version": [{"code": each} for each in versions if each]} if any(versions) else {})
            for url, versions in by_url.items()
        ],
        "expansion": {"hierarchical": False, "paging": True, "incomplete": False, "textFilter": _TEXT_FILTER},
        "codeSearch": "all",
        "validateCode": {"translations": False},
        "translation": {"needsMap": False},
        "closure": {"translation": False},
    }


_TEXT_FILTER = "Each word of the filter begins a word of one of the concept's names, without case and accents."


def _resource(kind: str) -> dict[str, Any]:
    parameters = search_parameters(kind)
    referring = sorted(code for code, parameter in parameters.items() if parameter.kind == "reference")
    made: dict[str, Any] = {
        "type": kind,
        "interaction": [{"code": code} for code in _INTERACTIONS],
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": True,
        "conditionalCreate": True,
        "conditionalRead": "full-support",
        "conditionalUpdate": True,
        "conditionalDelete": "multiple",
        "searchInclude": ["*", f"{kind}:*", *(f"{kind}:{code}" for code in referring)],
        "searchParam": [
            {"name": name, "type": of}
            for name, of in sorted({**COMMON, **{code: p.kind for code, p in parameters.items()}}.items())
        ],
    }
    named = [*_OPERATIONS, *_OF_TYPE.get(kind, ())]
    made["operation"] = [
        {"name": name.partition("-")[2], "definition": f"http://hl7.org/fhir/OperationDefinition/{name}"}
        for name in named
    ]
    if kind == "Subscription":
        made["documentation"] = "Channels: rest-hook and email. There is no websocket: functions speak HTTP alone."
        made["extension"] = [
            {"url": f"{_BACKPORT}/StructureDefinition/{_TOPIC}", "valueCanonical": url} for url in TOPICS
        ]
        made["operation"] += [
            {"name": name, "definition": f"{_BACKPORT}/OperationDefinition/backport-subscription-{name}"}
            for name in ("status", "events")
        ]
    if kind == "Patient":
        process = "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message"
        made["operation"].append({"name": "process-message", "definition": process})
        made["operation"].append({"name": "summary", "definition": f"{_IPS}/OperationDefinition/summary"})
    if kind in ("Patient", "Group"):
        made["operation"].append({"name": "export", "definition": f"{_BULK}/OperationDefinition/{kind.lower()}-export"})
    return made
