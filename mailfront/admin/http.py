"""GET `/metrics` and `/healthz` over HTTP, for Prometheus and load balancers. Nothing else, and nothing that changes.

Runs inside the keeper's event loop on a socket that somebody else has bound; it takes no signals and writes no log of
its own. `/healthz` answers 200 while mail can be accepted (`ok`, `degraded`) and 503 when not (`failed`), with the
reasons as JSON. Requests are bounded: headers of 16 KiB, 32 connections, 5 s idle, 30 s for all of a connection.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailfront.base.tasks import spawn
from mailfront.observe.health import State
from mailfront.observe.metrics import CONTENT_TYPE

_MAX_HEADER_BYTES = 16 * 1024
_MOST_CONNECTIONS = 32
_IDLE_S = 5
_LONGEST_CONNECTION_S = 30.0
_CLOSE_WITHIN_S = 2


def application(metrics: Callable[[], bytes], health: Callable[[], tuple[State, dict[str, Any]]]) -> Starlette:
    """The two pages. `metrics` may take a while and is called in a thread; `health` gives the overall state and
    the document to show."""

    async def show_metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics), media_type=CONTENT_TYPE)

    async def show_health(_request: Request) -> Response:
        state, document = health()
        return Response(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            status_code=503 if state is State.FAILED else 200,
            media_type="application/json",
        )

    app = Starlette(routes=[Route("/metrics", show_metrics), Route("/healthz", show_health)])
    app.router.redirect_slashes = False
    return app


class _BoundedConnection(H11Protocol):
    """uvicorn limits the time between two requests, not that for sending one or for reading the answer."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(_LONGEST_CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process that it lives in has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves bound sockets in the running loop. Order of calls: `start`, then `close`."""

    def __init__(self, app: Starlette) -> None:
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                http=_BoundedConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_CLOSE_WITHIN_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def start(self, listening: list[socket.socket]) -> None:
        """Begin to serve. The sockets are closed by `close`."""
        self._serving = spawn(self._server.serve(sockets=listening), name="admin http")

    async def close(self) -> None:
        """Finish running requests, at most `_CLOSE_WITHIN_S`, and close the sockets."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
