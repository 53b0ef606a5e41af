"""The CapabilityStatement, derived from what the code does."""

from __future__ import annotations

from typing import Any

from carefolio.mapping import MAPPED_TYPES
from carefolio.record.search import search_parameters


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
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "service": [
                        {
                            "coding": [
                                {
                                    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                                    "code": "SMART-on-FHIR",
                                }
                            ]
                        }
                    ],
                    "extension": [
                        {
                            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                            "extension": [{"url": "token", "valueUri": f"{base}/oauth2/token"}],
                        }
                    ],
                },
                "resource": [_resource(kind) for kind in MAPPED_TYPES],
            }
        ],
    }


def _resource(kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": kind,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "versioned",
        "searchParam": [{"name": name, "type": of} for name, of in sorted(search_parameters(kind).items())],
    }
    if kind == "Patient":
        definition = "http://hl7.org/fhir/OperationDefinition/Patient-everything"
        made["operation"] = [{"name": "everything", "definition": definition}]
    return made
