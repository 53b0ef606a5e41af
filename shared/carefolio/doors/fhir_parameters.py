"""An operation's parameters, however they come: in the address, in a form, in a Parameters resource (R4 3.2.0.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from carefolio.doors.fhir_requests import FORM, FORM_TYPE, document_of, query_of
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate


async def given(request: Request) -> list[tuple[str, Any]]:
    """Names and values, in order, without those about the answer's form.

    A value is a text; of a Parameters resource a dict where the type has elements (a Coding, a Reference, a resource),
    and a list of such pairs where it has parts. Raises FhirError.
    """
    media = request.headers.get("content-type", FORM_TYPE).partition(";")[0].strip().lower()
    found: list[tuple[str, Any]]
    if request.method == "POST" and media != FORM_TYPE:
        found = [*request.query_params.multi_items(), *parts(await document_of(request))]
    else:
        found = list(await query_of(request))
    return [(name, value) for name, value in found if name not in FORM]


def parts(said: Any) -> list[tuple[str, Any]]:
    """What a Parameters resource says. Raises FhirError."""
    if not isinstance(said, dict) or said.get("resourceType") != "Parameters":
        raise error(400, "invalid", "Parameters are needed", "Parameters")
    if issues := validate(said):
        raise FhirError(400, issues)
    return list(_pairs(said.get("parameter", [])))


def _pairs(parameters: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for each in parameters:
        name = each.get("name", "")
        if "part" in each:
            yield name, list(_pairs(each["part"]))
        elif "resource" in each:
            yield name, each["resource"]
        else:
            value = next((value for key, value in each.items() if key.startswith("value")), "")
            if isinstance(value, bool):
                value = str(value).lower()
            yield name, value if isinstance(value, dict) else str(value)
