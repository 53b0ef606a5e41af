"""Who is calling, and what a door says when something breaks."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from carefolio.cloud.http import Door, client_address, json_error, read_body
from carefolio.cloud.settings import settings


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Any:
    def trust(networks: str) -> None:
        monkeypatch.setenv("TRUSTED_PROXIES", networks)
        settings.cache_clear()

    yield trust
    monkeypatch.undo()
    settings.cache_clear()


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    return {"client": (peer, 1), "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded]}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", ["203.0.113.5, 35.191.0.1"], "198.51.100.7"),
        ("35.191.0.9", ["203.0.113.5, 35.191.0.1"], "203.0.113.5"),
        ("35.191.0.9", ["10.0.0.1, 203.0.113.5, 35.191.0.1"], "203.0.113.5"),
        ("35.191.0.9", ["10.0.0.1", "203.0.113.5, 35.191.0.1"], "203.0.113.5"),
        ("35.191.0.9", ["10.0.0.1, 203.0.113.5", "35.191.0.1"], "203.0.113.5"),
        ("35.191.0.9", ["203.0.113.5"], "35.191.0.9"),
        ("35.191.0.9", [], "35.191.0.9"),
        ("35.191.0.9", ["rubbish, 35.191.0.1"], "35.191.0.9"),
        ("35.191.0.9", ["2001:db8::1, 35.191.0.1"], "2001:db8::1"),
        ("35.191.0.9", [",,, ,"], "35.191.0.9"),
    ],
)
def test_the_client_address_behind_a_trusted_proxy(
    proxies: Any, peer: str, forwarded: list[str], expected: str
) -> None:
    proxies("35.191.0.0/16 130.211.0.0/22")
    assert client_address(scope(peer, *forwarded)) == expected


def test_without_a_trusted_proxy_the_header_means_nothing(proxies: Any) -> None:
    proxies("")
    assert client_address(scope("198.51.100.7", "10.0.0.1, 10.0.0.2")) == "198.51.100.7"


async def call(door: Door, path: str, body: list[bytes] | None = None, **headers: str) -> tuple[int, bytes]:
    parts = [*(body or []), b""]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    wanted = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = {"type": "http", "method": "POST", "path": path, "headers": wanted, "query_string": b"",
               "client": ("127.0.0.1", 1), "root_path": "", "scheme": "http", "server": ("x", 80)}  # fmt: skip
    await door(request, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def _broken(_: Request) -> Response:
    raise ZeroDivisionError("Fictional Robin 9990001103")


async def _away(_: Request) -> Response:
    raise ConnectionRefusedError("10.0.0.3")


async def _limited(request: Request) -> Response:
    return JSONResponse(len(await read_body(request, 10)))


DOOR = Door(
    "test",
    [Route(path, endpoint, methods=["POST"]) for path, endpoint in
     (("/broken", _broken), ("/away", _away), ("/limited", _limited))],
    json_error,
)  # fmt: skip


async def test_an_unexpected_error_tells_nothing(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    status, body = await call(DOOR, "/broken")
    assert status == 500
    assert b"Robin" not in body
    logged = capfdbinary.readouterr().out
    assert b"Robin" not in logged
    assert b"ZeroDivisionError" in logged


async def test_a_database_that_is_away_is_503() -> None:
    status, body = await call(DOOR, "/away")
    assert status == 503
    assert b"10.0.0.3" not in body


@pytest.mark.parametrize(("sizes", "status"), [([10], 200), ([5, 5], 200), ([11], 413), ([6, 6], 413), ([1] * 11, 413)])
async def test_a_body_is_bounded_however_it_comes(sizes: list[int], status: int) -> None:
    assert (await call(DOOR, "/limited", [b"x" * size for size in sizes]))[0] == status


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    assert (await call(DOOR, "/limited", [b"x"], content_length="11"))[0] == 413


async def test_a_path_that_is_not_there() -> None:
    assert (await call(DOOR, "/nowhere"))[0] == 404
