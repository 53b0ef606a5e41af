"""An operation's parameters, however they come: in the address, in a form, in a Parameters resource (R4 3.2.0.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.requests import Request

from carefolio.doors.fhir_requests import FORM, FORM_TYPE, document_of, query_of
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate
from carefolio.record.arguments import SearchError

_NUMBER = re.compile(r"[0-9]{1,15}\Z")


class Parameters:
    """An operation's parameters; each is taken once, and one that nobody takes is unknown.

    All of it raises SearchError that names the parameter.
    """

    def __init__(self, said: Iterable[tuple[str, Any]]) -> None:
        self._by_name: dict[str, list[Any]] = {}
        for name, value in said:
            self._by_name.setdefault(name, []).append(value)

    def done(self) -> None:
        """Refuse a parameter that was not taken."""
        for name in self._by_name:
            raise SearchError(name, "not a parameter of this operation here")

    def many(self, name: str) -> list[str]:
        """Texts."""
        return self._values(name, str, "no such type of it")

    def listed(self, name: str) -> list[str]:
        """Texts, each of which may be several with commas between."""
        return list(dict.fromkeys(each for value in self.many(name) for each in value.split(",")))

    def text(self, name: str, otherwise: str = "") -> str:
        """A text."""
        values = self.many(name) or [otherwise]
        if len(values) > 1:
            raise SearchError(name, "is given once")
        return values[0]

    def several(self, name: str) -> list[dict[str, Any]]:
        """Values of a type that has elements."""
        return self._values(name, dict, "has elements, and goes in Parameters")

    def value(self, name: str) -> dict[str, Any] | None:
        """A value of a type that has elements."""
        values = self.several(name)
        if len(values) > 1:
            raise SearchError(name, "is given once")
        return values[0] if values else None

    def number(self, name: str, least: int = 0, most: int = 999_999_999) -> int | None:
        """A number of this size."""
        text = self.text(name)
        if not text:
            return None
        if not _NUMBER.match(text) or not least <= int(text) <= most:
            raise SearchError(name, f"a number from {least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        """Whether it is true; where it is not given, it is not."""
        return self.choice(name, "true", "false") == "true"

    def choice(self, name: str, *choices: str) -> str:
        """One of these, or nothing."""
        text = self.text(name)
        if text and text not in choices:
            raise SearchError(name, f"one of {', '.join(choices)}")
        return text

    def _values(self, name: str, kind: type, otherwise: str) -> list[Any]:
        values = self._by_name.pop(name, [])
        if not all(isinstance(each, kind) for each in values):
            raise SearchError(name, otherwise)
        return values


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
