"""Evaluates FHIRPath in a process of its own: what an expression takes too long or too much for ends with it.

Lines of JSON in, lines of JSON out: ``{"resource": …, "rules": [[path, base, expression], …]}`` gives for each rule
true, false, or null where it cannot be evaluated. Nothing else is written, and nothing is kept.
"""

from __future__ import annotations

import json
import re
import resource as limits
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fhirpathpy import compile as compiled
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models

_MEMORY = 1 << 30
_STEP = re.compile(r"([A-Za-z0-9]+)(?:\[(\d+)\])?\Z")


def _has_value(found: list[Any]) -> list[bool]:
    """FHIR's own function hasValue (R4 2.9.1), which the library does not know: one primitive, with a value."""
    plain = [getattr(each, "data", each) for each in found]
    return [len(plain) == 1 and plain[0] is not None and not isinstance(plain[0], dict)]


_OURS = {"userInvocationTable": {"hasValue": {"fn": _has_value, "arity": {0: []}}}}


@lru_cache(maxsize=2000)
def _expression(expression: str) -> Callable[..., Any]:
    made: Callable[..., Any] = compiled(expression, models["r4"], _OURS)
    return made


def at(resource: Any, path: str) -> Any:
    """The value at ``Patient.name[0].given[1]``; of a primitive without a value its extensions; None for nothing."""
    value = resource
    for step in path.split(".")[1:]:
        match = _STEP.match(step)
        if match is None or not isinstance(value, dict):
            return None
        inner = value.get(match[1], value.get(f"_{match[1]}"))
        if match[2] is not None:
            inner = inner[int(match[2])] if isinstance(inner, list) and int(match[2]) < len(inner) else None
        value = inner
    return value


def told(resource: Any, path: str, base: str, expression: str) -> bool | None:
    """Whether an invariant holds of the value at a path; None where that cannot be evaluated here."""
    value = at(resource, path)
    try:
        node = ResourceNode.create_node(value, base)  # type: ignore[no-untyped-call]
        found = _expression(expression)(node, {"resource": resource, "rootResource": resource, "context": node})
    except Exception:
        return None
    # What is not there breaks no rule: ref-1 of a reference that has a display alone.
    return found in ([True], [])


def main() -> None:
    """Answer until the input ends."""
    limits.setrlimit(limits.RLIMIT_AS, (_MEMORY, _MEMORY))
    # trace() prints.
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = [told(asked["resource"], *rule) for rule in asked["rules"]]
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
