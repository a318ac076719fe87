"""One LDAP server: a few pooled connections in this server's own small thread pool.

ldap3 blocks. A server that hangs keeps its own threads busy, never another server's and never the event loop. Whoever
waits gives up at its deadline; the connection is then shut down under the thread, which ends and is free again.

At most `directory.pool` threads and as many connections. Calls beyond that wait their turn, within their deadline.
Probes and the snapshot take no turn: they have a connection of their own, in the loop's own threads.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from mailfront.base.secret import Secret
from mailfront.directory.answers import ByDn
from mailfront.directory.entries import Entry
from mailfront.directory.ldap_connection import LdapConnection, SearchRefused, ServerDown, connector
from mailfront.directory.settings import LdapSettings

IDLE_MAX_S = 60.0
"""A connection that was idle longer is not used again: a firewall may have forgotten it without a word."""
RETRY_WITHIN_S = 1.0
"""Servers close idle connections. One that was lost this soon after it was taken up again is worth a fresh try."""
SIZE_LIMIT = 10
"""One address has one entry. Many would be answered the same as two."""

T = TypeVar("T")


class _Attempt:
    """One call in a thread; `abort` is called by the event loop when nobody waits for it any more."""

    __slots__ = ("connection", "started_s")

    def __init__(self) -> None:
        self.started_s = math.inf
        self.connection: LdapConnection | None = None

    def abort(self) -> None:
        connection = self.connection
        if connection is not None:
            connection.shut_down()


class LdapServer:
    """One server of `directory.urls`."""

    def __init__(self, url: str, settings: LdapSettings) -> None:
        """Reads the password and the CA file. Raises ConfigError. Does not connect."""
        self.url = url
        self.connects_count = 0
        self._connector = connector(url, settings)
        self._pool = settings.pool
        self._threads = ThreadPoolExecutor(settings.pool, thread_name_prefix="ldap")
        self._idle: deque[tuple[LdapConnection, float]] = deque()
        self._lock = threading.Lock()
        self._attempts: set[_Attempt] = set()
        self._closed = False

    async def search(self, wanted: str | ByDn, attributes: tuple[str, ...], *, limit_s: float) -> list[Entry]:
        """All entries below the base that match a filter, `SIZE_LIMIT` at most; or the one entry of a name, if there.

        Ends within `limit_s` seconds. Raises ServerDown, SearchRefused. Cancellation is safe.
        """

        def call(attempt: _Attempt) -> list[Entry]:
            if isinstance(wanted, ByDn):
                return self._on_connection(attempt, lambda connection: connection.entry(wanted.dn, attributes))
            return self._on_connection(attempt, lambda connection: connection.search(wanted, attributes, SIZE_LIMIT))

        return await self._in_thread(self._threads, limit_s, call)

    async def verify(self, dn: str, password: Secret, *, limit_s: float) -> bool:
        """Whether this password is that entry's, by binding as it. The connection must serve nothing else afterwards:
        use an object of its own for this. Ends within `limit_s` seconds. Raises ServerDown, SearchRefused."""

        def call(attempt: _Attempt) -> bool:
            return self._on_connection(attempt, lambda connection: connection.verify(dn, password))

        return await self._in_thread(self._threads, limit_s, call)

    async def probe(self, search_filter: str, attributes: tuple[str, ...], *, limit_s: float) -> list[Entry]:
        """Connect anew, bind, search, close. Returns at most `SIZE_LIMIT` entries. Raises as `search`."""

        def call(attempt: _Attempt) -> list[Entry]:
            with self._fresh(attempt) as connection:
                return connection.search(search_filter, attributes, SIZE_LIMIT)

        return await self._in_thread(None, limit_s, call)

    async def search_all(self, search_filter: str, attributes: tuple[str, ...], *, limit_s: float) -> list[Entry]:
        """Every entry that matches, page by page on a connection of its own. Raises as `search`."""

        def call(attempt: _Attempt) -> list[Entry]:
            with self._fresh(attempt) as connection:
                return [entry for page in connection.pages(search_filter, attributes) for entry in page]

        return await self._in_thread(None, limit_s, call)

    async def close(self) -> None:
        """Close all connections. A search under way ends with ServerDown."""
        with self._lock:
            self._closed = True
            attempts = list(self._attempts)
        for attempt in attempts:
            attempt.abort()
        while self._idle:
            self._idle.pop()[0].close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, threads: ThreadPoolExecutor | None, limit_s: float, call: Callable[[_Attempt], T]) -> T:
        """Run `call` in the pool; in the loop's own threads if `threads` is None (rare calls outside the pool)."""
        if self._closed:
            raise ServerDown(f"{self.url}: closed")
        attempt = _Attempt()

        def started() -> T:
            attempt.started_s = time.monotonic()
            return call(attempt)

        self._attempts.add(attempt)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.get_running_loop().run_in_executor(threads, started)
        except TimeoutError:
            if time.monotonic() - attempt.started_s < limit_s / 2:
                # Most of the time went by in our own queue. That says nothing about the server.
                raise SearchRefused(
                    f"{self.url}: all {self._pool} connections were busy for {limit_s:.1f}s; raise directory.pool"
                ) from None
            raise ServerDown(
                f"{self.url}: no answer within {limit_s:.1f}s; check that the server runs, is not overloaded, and has "
                "an index for every attribute of directory.recipient_filter"
            ) from None
        finally:
            # After a time-out or a cancellation the call still runs. A call that is done has no connection any more.
            attempt.abort()
            self._attempts.discard(attempt)

    def _on_connection(self, attempt: _Attempt, operation: Callable[[LdapConnection], T]) -> T:
        connection = self._take_idle()
        if connection is not None:
            started_s = time.monotonic()
            try:
                return self._use(attempt, connection, operation)
            except ServerDown:
                if self._closed or time.monotonic() - started_s > RETRY_WITHIN_S:
                    raise
        return self._use(attempt, self._connect(attempt), operation)

    def _use(self, attempt: _Attempt, connection: LdapConnection, operation: Callable[[LdapConnection], T]) -> T:
        attempt.connection = connection
        keep = True
        try:
            return operation(connection)
        except ServerDown:
            keep = False
            raise
        finally:
            attempt.connection = None
            if keep:
                self._give_back(connection)

    @contextmanager
    def _fresh(self, attempt: _Attempt) -> Iterator[LdapConnection]:
        connection = self._connect(attempt)
        try:
            yield connection
        finally:
            attempt.connection = None
            connection.close()

    def _connect(self, attempt: _Attempt) -> LdapConnection:
        with self._lock:
            self.connects_count += 1
        attempt.connection = connection = self._connector()
        connection.open()
        return connection

    def _take_idle(self) -> LdapConnection | None:
        while True:
            try:
                connection, since_s = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - since_s <= IDLE_MAX_S:
                return connection
            connection.close()

    def _give_back(self, connection: LdapConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()
