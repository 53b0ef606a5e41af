"""The addresses that this server is known at: the public one, and others that lead here."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.types import Scope

from carefolio.cloud.settings import settings

_asked: ContextVar[str] = ContextVar("asked", default="")


def addresses() -> tuple[str, ...]:
    """The public address, and those of ALSO_AT."""
    return (settings().public_url, *settings().also_at)


def below(url: str) -> str | None:
    """The part of a URL below our FHIR endpoint, at whichever of our addresses; None where it is another server's."""
    for known in addresses():
        if url.startswith(f"{known}/fhir/R4/"):
            return url[len(known) + len("/fhir/R4/") :]
    return None


def note(scope: Scope) -> None:
    """Answer this request under the address that it came to, where that is one of ours."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    _asked.set(next((known for known in settings().also_at if known.partition("://")[2] == host), ""))


def address() -> str:
    """The address of the request that is answered."""
    return _asked.get() or settings().public_url
