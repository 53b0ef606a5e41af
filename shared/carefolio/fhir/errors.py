"""What a FHIR request can fail with: an HTTP status and the issues of an OperationOutcome (R4 3.1.0)."""

from __future__ import annotations

from collections.abc import Sequence

from carefolio.fhir.validation import Issue


class FhirError(Exception):
    """``status`` is HTTP's; ``issues`` name code, element and reason, never a value of the record."""

    def __init__(self, status: int, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].text if issues else str(status))
        self.status = status
        self.issues = list(issues)


def error(status: int, code: str, text: str, expression: str = "") -> FhirError:
    """A FhirError with one issue; ``code`` is of the issue-type value set."""
    return FhirError(status, [Issue(code, expression, text)])
