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

# How long the invariants of one resource may take, and who waits for his turn; how many are told.
_SECONDS, _PATIENCE, _MOST, _LONGEST = 3, 5, 5000, 4000
_DEEPEST = 40
# Expressions that took too long once are not tried again.
_slow: dict[str, None] = {}
_MOST_SLOW = 1000
_evaluators: dict[tuple[asyncio.AbstractEventLoop, bool], _Evaluator] = {}


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
        """The answers; None where it took too long, ended, or others wait for it already."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._turn.acquire()
        except TimeoutError:
            return None
        try:
            process = await self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            async with asyncio.timeout(_SECONDS):
                process.stdin.write(question + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
            made: list[bool | None] = json.loads(answer)
            return made
        except (TimeoutError, ConnectionError, ValueError):
            log(Event.INVARIANTS_ENDED)
            await self.close()
            return None
        except BaseException:
            # Its answer would be the next one's.
            await self.close()
            raise
        finally:
            self._turn.release()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "carefolio.profiles.evaluating", stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=1 << 20,
            )  # fmt: skip
        return self._process

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = None


async def _close() -> None:
    loop = asyncio.get_running_loop()
    for key in [key for key in _evaluators if key[0] is loop]:
        await _evaluators.pop(key).close()


closing.also(_close)


async def tell(resource: dict[str, Any], ruled: Sequence[Ruled]) -> list[bool | None]:
    """Which hold, in order: True, False, None where it cannot be said.

    Those of FHIR and of what an operator loaded are told by one process, what organisations posted by another, each
    expression by itself where all together take too long: so that nobody's costs another's.
    """
    told: list[bool | None] = [None] * len(ruled)
    for posted in (False, True):
        places = [
            place
            for place, each in enumerate(ruled[:_MOST])
            if each.posted is posted and len(each.expression) <= _LONGEST and each.expression not in _slow
        ]
        if not places:
            continue
        evaluator = _evaluators.setdefault((asyncio.get_running_loop(), posted), _Evaluator())
        answers = await _asked(evaluator, resource, [ruled[place] for place in places])
        if answers is None and posted:
            answers = await _one_by_one(evaluator, resource, [ruled[place] for place in places])
        for place, answer in zip(places, answers or [], strict=False):
            told[place] = answer
    return told


async def _one_by_one(evaluator: _Evaluator, resource: dict[str, Any], ruled: Sequence[Ruled]) -> list[bool | None]:
    """Each expression by itself, up to the first that takes too long, which is known from now on."""
    made: list[bool | None] = []
    for each in ruled:
        answers = await _asked(evaluator, resource, [each])
        if answers is None:
            _slow[each.expression] = None
            if len(_slow) > _MOST_SLOW:
                _slow.pop(next(iter(_slow)))
            break
        made += answers
    return made


async def _asked(evaluator: _Evaluator, resource: dict[str, Any], ruled: Sequence[Ruled]) -> list[bool | None] | None:
    rules = [[each.path, each.base, each.expression] for each in ruled]
    return await evaluator.ask(dumps({"resource": resource, "rules": rules}))
