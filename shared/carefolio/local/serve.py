"""The functions of one side behind one door, mounted as the load balancer's URL map mounts them.

``python -m carefolio.local.serve public`` answers on PORT, ``internal`` on a Unix socket (ingest, operations) and
``dispatcher`` calls it. Each ends when the supervisor's pipe closes.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from carefolio.cloud.closing import close_all
from carefolio.local.installation import REPOSITORY, Installation, installation

FUNCTIONS = REPOSITORY / "functions"
# Longer than any client keeps an idle connection (the load balancer: 600 s), so that none sends into a closing one.
_KEEP_ALIVE = 620


def url_map() -> dict[str, list[str]]:
    """The paths of every public function, as the load balancer has them."""
    loaded: dict[str, list[str]] = json.loads((FUNCTIONS / "url_map.json").read_text())
    return loaded


def internal_functions() -> list[str]:
    """Functions without a public path: only the queue and the clock call them."""
    return sorted(main.parent.name for main in FUNCTIONS.glob("*/main.py") if main.parent.name not in url_map())


class Front:
    """Functions by the first part of the path that they own; the longest match wins."""

    def __init__(self, paths: dict[str, list[str]], beside: dict[str, ASGIApp] | None = None) -> None:
        from functions_framework import aio

        make: Callable[..., ASGIApp] = aio.create_asgi_app
        apps = {name: make(target=name, source=str(FUNCTIONS / name / "main.py")) for name in paths}
        mounts = {path: apps[name] for name, owned in paths.items() for path in owned} | (beside or {})
        self._mounts: list[tuple[str, ASGIApp]] = sorted(mounts.items(), key=lambda mount: -len(mount[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        for prefix, app in self._mounts:
            # "/" is the first page alone.
            if path == prefix or (prefix != "/" and path.startswith(f"{prefix}/")):
                await app(scope, receive, send)
                return
        await JSONResponse({"error": "there is nothing at this address"}, 404)(scope, receive, send)


async def _serve(front: Front, **where: Any) -> None:
    """Serve until told to stop; requests under way are answered first."""
    import uvicorn

    config = uvicorn.Config(
        front, log_config=None, access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=10, backlog=1024, timeout_keep_alive=_KEEP_ALIVE, **where,
    )  # fmt: skip
    server = uvicorn.Server(config)
    stop_at_hang_up(functools.partial(setattr, server, "should_exit", True))
    await server.serve()
    await close_all()


async def _dispatch(here: Installation) -> None:
    import aiohttp

    from carefolio.cloud.schedule import JOBS, LOCAL_JOBS
    from carefolio.cloud.topics import SUBSCRIPTIONS
    from carefolio.local.dispatcher import Dispatcher

    connector = aiohttp.UnixConnector(path=str(here.internal_socket), limit=64)
    dispatcher = asyncio.create_task(Dispatcher(SUBSCRIPTIONS, (*JOBS, *LOCAL_JOBS), connector).run())
    practice = asyncio.create_task(_serve_practice(here))
    stop_at_hang_up(dispatcher.cancel)
    await asyncio.gather(dispatcher, return_exceptions=True)
    practice.cancel()
    await close_all()


async def _serve_practice(here: Installation) -> None:
    """Serve the demonstration's extract as soon as it is there."""
    from carefolio.local import extract_demo

    while not await asyncio.to_thread(extract_demo.serve, here):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(1)


def stop_at_hang_up(stop: Any) -> None:
    """Call ``stop`` at SIGTERM, and when the supervisor's end of our standard input closes (it died)."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    if not sys.stdin.isatty():
        loop.add_reader(sys.stdin.fileno(), lambda: (loop.remove_reader(sys.stdin.fileno()), stop()))


def main(side: str) -> None:
    """Run one process of the local installation."""
    here = installation()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    work: Coroutine[Any, Any, None]
    if side == "public":
        from carefolio.local.mailbox import mailbox
        from carefolio.local.stand_in import stand_ins

        front = Front(url_map(), {"/mailbox": mailbox, "/stand-in": stand_ins})
        work = _serve(front, host=os.environ.get("HOST", "127.0.0.1"), port=here.port)
    elif side == "internal":
        Path(here.internal_socket).unlink(missing_ok=True)
        work = _serve(Front({name: [f"/{name}"] for name in internal_functions()}), uds=str(here.internal_socket))
    else:
        work = _dispatch(here)
    if side != "public":
        # On one machine the hospital's acknowledgement comes first; what follows it takes what is left.
        os.nice(10)
    import uvloop

    # What is loaded now lives as long as the process: the collector need not walk it for each thousand of new objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    uvloop.run(work)


if __name__ == "__main__":
    main(sys.argv[1])
