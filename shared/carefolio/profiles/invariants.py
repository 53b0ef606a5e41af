"""FHIRPath invariants, R4's own too: gathered along a resource, told by a process that may be ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any

from carefolio.cloud import closing
from carefolio.cloud.telemetry import Event, log
from carefolio.fhir.definitions import elements, primitives
from carefolio.mapping.serialise import dumps
from carefolio.profiles.walking import ERROR, WARNING, Ruled

# How long all invariants of one resource may take, and how many are told.
_SECONDS, _MOST, _LONGEST = 5, 5000, 4000
_DEEPEST = 40
_evaluators: dict[asyncio.AbstractEventLoop, _Evaluator] = {}


@cache
def _own() -> dict[str, list[list[str]]]:
    read = resources.files("carefolio.fhir").joinpath("definitions/invariants.json").read_bytes()
    made: dict[str, list[list[str]]] = json.loads(read)
    return made


def own(value: dict[str, Any], kind: str, path: str, depth: int = 0) -> Iterator[Ruled]:
    """R4's invariants of an object and of all that is in it."""
    if depth > _DEEPEST:
        return
    for key, severity, text, expression in _own().get(kind, ()):
        yield Ruled(path, kind, key, ERROR if severity == "error" else WARNING, text, expression)
    try:
        known = elements(kind)
    except KeyError:
        return
    for name, inner in value.items():
        element = known.get(name)
        if element is None or element.type in primitives():
            continue
        listed = inner if isinstance(inner, list) else [inner]
        for number, one in enumerate(listed):
            if isinstance(one, dict):
                of = str(one.get("resourceType", "")) if element.type == "Resource" else element.type
                here = f"{path}.{name}" + (f"[{number}]" if isinstance(inner, list) else "")
                # What is contained is a resource of its own: its invariants are about itself.
                if element.type != "Resource":
                    yield from own(one, of, here, depth + 1)


class _Evaluator:
    """The process, one question after the other."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, question: bytes) -> list[bool | None] | None:
        """The answers; None where it took too long or ended."""
        async with self._turn:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "carefolio.profiles.evaluating", stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=1 << 20,
                )  # fmt: skip
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with asyncio.timeout(_SECONDS):
                    process.stdin.write(question + b"\n")
                    await process.stdin.drain()
                    answer = await process.stdout.readline()
                    if answer:
                        made: list[bool | None] = json.loads(answer)
                        return made
            except (TimeoutError, ConnectionError, ValueError):
                pass
            log(Event.INVARIANTS_ENDED)
            await self.close()
            return None

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = None


async def _close() -> None:
    if evaluator := _evaluators.pop(asyncio.get_running_loop(), None):
        await evaluator.close()


closing.also(_close)


async def tell(resource: dict[str, Any], ruled: Sequence[Ruled]) -> list[bool | None] | None:
    """Which hold, in order: True, False, None where it cannot be said; None for all where they took too long."""
    asked = [[each.path, each.base, each.expression] for each in ruled[:_MOST] if len(each.expression) <= _LONGEST]
    if len(asked) < len(ruled):
        return None
    evaluator = _evaluators.setdefault(asyncio.get_running_loop(), _Evaluator())
    return await evaluator.ask(dumps({"resource": resource, "rules": asked}))
