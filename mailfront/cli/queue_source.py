"""Where the `queue` verbs that only read get their answers: the running server, or its database if none runs."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mailfront.admin.errors import NotRunning
from mailfront.cli.conventions import server_settings
from mailfront.cli.output import ProgressBar, aside

if TYPE_CHECKING:
    from mailfront.admin.queues import QueueReader


class QueueSource:
    """A context manager. `ask` goes to the server; at the first sign that none runs, to the database from then on."""

    def __init__(self) -> None:
        from mailfront.admin.client import AdminClient

        self._settings = server_settings()
        self._client = AdminClient(self._settings.admin_socket)
        self._offline: _Offline | None = None

    def __enter__(self) -> "QueueSource":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._client.__exit__()
        if self._offline is not None:
            self._offline.close()

    @property
    def is_offline(self) -> bool:
        """Whether the database was read directly."""
        return self._offline is not None

    def ask(self, verb: str, arguments: dict[str, Any] | None = None) -> Any:
        """One answer. Raises AdminError, StoreFailed or StoreRefused."""
        if self._offline is None:
            try:
                with ProgressBar() as bar:
                    return self._client.call(verb, arguments, progress=bar.show)
            except NotRunning:
                aside("the server is not running; reading its database")
            self._offline = _Offline(self._settings.state_url)
        return self._offline.ask(verb, arguments or {})


def read_queue(verb: str, arguments: dict[str, Any] | None = None) -> Any:
    """Ask one thing. Raises AdminError, ConfigError, StoreFailed or StoreRefused."""
    with QueueSource() as source:
        return source.ask(verb, arguments)


class _Offline:
    """The database, kept open between questions."""

    def __init__(self, url: str) -> None:
        import asyncio
        from contextlib import AsyncExitStack

        from mailfront.admin.offline import reading

        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        try:
            self._reader = self._runner.run(self._stack.enter_async_context(reading(url)))
        except BaseException:
            self._runner.close()
            raise

    def ask(self, verb: str, arguments: dict[str, Any]) -> Any:
        import orjson

        answer = self._runner.run(_run(_OFFLINE[verb](self._reader, arguments)))
        # The same form as over the socket.
        return orjson.loads(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


async def _run(answer: Awaitable[Any]) -> Any:
    return await answer


async def _list(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import ListRequest, read

    return await reader.list(read(ListRequest, arguments))


async def _show(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import ShowRequest, read

    return await reader.show(read(ShowRequest, arguments))


async def _check(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import CheckRequest, read

    return await reader.check(read(CheckRequest, arguments))


async def _export(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import ExportRequest, read

    return await reader.export(read(ExportRequest, arguments))


async def _piece(reader: "QueueReader", arguments: dict[str, Any]) -> Any:
    from mailfront.admin.requests import PieceRequest, read

    return await reader.piece(read(PieceRequest, arguments))


_OFFLINE: "dict[str, Callable[[QueueReader, dict[str, Any]], Awaitable[Any]]]" = {
    "queue.list": _list,
    "queue.show": _show,
    "queue.stats": lambda reader, _: reader.stats(),
    "queue.check": _check,
    "queue.export": _export,
    "queue.piece": _piece,
}
