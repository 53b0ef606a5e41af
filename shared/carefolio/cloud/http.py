"""The door of every function: client address, trace, log line and errors, once for all.

Written as plain ASGI, since a function of the framework may return an ASGI app.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carefolio.cloud import database, profiling
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log, span, where

ErrorBody = Callable[[int, str], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)


class TooLargeError(Exception):
    """A request body over its limit."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most ``limit`` bytes; raises TooLargeError before more than that is held."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)


def client_address(scope: Scope) -> str:
    """Who is calling. Behind a trusted proxy the second address from the right of X-Forwarded-For.

    Google's load balancer appends ``<client>, <balancer>``; all that stands further left is the caller's invention.
    """
    peer = scope["client"][0] if scope.get("client") else ""
    proxies = settings().trusted_proxies
    if not proxies or not _within(peer, proxies):
        return peer
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    hops = [hop.strip() for hop in forwarded.decode("latin-1").split(",") if hop.strip()]
    if len(hops) < 2:
        return peer
    try:
        return str(ipaddress.ip_address(hops[-2]))
    except ValueError:
        return peer


def _within(address: str, networks: tuple[Any, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed.version == network.version and parsed in network for network in networks)


class Door:
    """``app`` behind the common door. ``error_body`` shapes an error as the function's protocol wants it."""

    def __init__(self, function: str, routes: list[BaseRoute], error_body: ErrorBody) -> None:
        self._function = function
        self._app: ASGIApp = Router(routes, redirect_slashes=False, default=_not_found)
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = (client_address(scope), 0)
        # The framework has mounted us below its own catch-all route; our routes see the whole path.
        scope["root_path"] = ""
        scope["path_params"] = {}
        # Its handlers would answer our errors in plain text before we see them.
        scope.pop("starlette.exception_handlers", None)
        profiling.look(self._function)
        started = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in _HEADERS if each[0] not in given)]
            await send(message)

        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"").decode("latin-1")
        with span(f"{self._function} {scope['method']}", parent) as current:
            try:
                await self._app(scope, receive, answer)
            except ClientDisconnect:
                status = 499
            except Exception as error:
                response = self._failure(error)
                if status:
                    raise
                await response(scope, receive, answer)
            endpoint = scope.get("endpoint")
            route = getattr(endpoint, "__name__", "none")
            if current.is_recording():
                current.update_name(f"{self._function} {route}")
                current.set_attribute("http.response.status_code", status)
            log(
                Event.REQUEST,
                function=self._function,
                method=scope["method"],
                route=route,
                status=status,
                milliseconds=round((time.perf_counter() - started) * 1000, 1),
            )

    def _failure(self, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            response = self._error_body(error.status_code, error.detail)
            for name, value in (error.headers or {}).items():
                response.headers[name] = value
            return response
        if isinstance(error, asyncpg.DataError):
            # NUL in a parameter and the like: the database refuses what is no text.
            return self._error_body(400, "the request holds what cannot be stored or compared")
        if isinstance(error, TooLargeError):
            return self._error_body(413, "the request is larger than this door takes")
        if isinstance(error, database.UNAVAILABLE):
            log(Event.UNAVAILABLE, function=self._function, error=type(error).__name__)
            response = self._error_body(503, "the record is not available; nothing was done; try again")
            response.headers["Retry-After"] = "5"
            return response
        log(Event.UNEXPECTED, function=self._function, error=type(error).__name__, where=where(error))
        return self._error_body(500, "an unexpected error; it has been reported")


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404, "there is nothing at this address")


def json_error(status: int, reason: str) -> Response:
    """The error body of doors that speak plain JSON."""
    from starlette.responses import JSONResponse

    return JSONResponse({"error": reason}, status_code=status)
