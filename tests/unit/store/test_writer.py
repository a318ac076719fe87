"""The store: group commit, failing operations, locks, refusals."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text

from mailfront.base.clock import SystemClock
from mailfront.base.errors import ConfigError
from mailfront.store import schema
from mailfront.store.commits import CommitThread, Write
from mailfront.store.errors import StoreFailed, StoreLocked, StoreRefused
from mailfront.store.writer import Store


def _url(directory: Path) -> str:
    return f"sqlite:///{directory}/state.db"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(_url(tmp_path), SystemClock(), free_space_bytes=0)
    yield opened
    await opened.close()


@pytest.fixture
async def gathering(store: Store) -> threading.Event:
    """Holds the writer up, so that what is written meanwhile becomes one group, until it is set."""
    event, reached = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: Connection) -> None:
        loop.call_soon_threadsafe(reached.set)
        event.wait(5.0)

    asyncio.ensure_future(store.write(hold)).add_done_callback(lambda done: done.exception())  # noqa: TID251
    await reached.wait()
    return event


def _values(connection: Connection) -> list[int]:
    return [row.value for row in connection.execute(select(schema.counter.c.value).order_by(schema.counter.c.value))]


async def test_write_returns_the_result_and_a_reader_sees_it(store: Store) -> None:
    """What a write returned is visible to every later read."""

    def operation(connection: Connection) -> str:
        connection.execute(insert(schema.counter), {"name": "a", "value": 1})
        return "done"

    assert await store.write(operation) == "done"
    assert await store.read(_values) == [1]
    assert store.read_now(_values) == [1]


async def test_one_failing_operation_fails_alone(store: Store) -> None:
    """In a group, an operation that raises is undone by itself; its neighbours are committed."""

    def good(number: int) -> None:
        async def run() -> None:
            await store.write(lambda c: c.execute(insert(schema.counter), {"name": f"n{number}", "value": number}))

        tasks.append(asyncio.ensure_future(run()))  # noqa: TID251

    def bad(connection: Connection) -> None:
        connection.execute(insert(schema.counter), {"name": "half", "value": 99})
        raise LookupError("no such row")

    tasks: list[asyncio.Future[None]] = []
    for number in range(10):
        good(number)
    failing = asyncio.ensure_future(store.write(bad))  # noqa: TID251
    for number in range(10, 30):
        good(number)
    await asyncio.gather(*tasks)
    with pytest.raises(LookupError):
        await failing
    assert await store.read(_values) == list(range(30))
    assert store.gate.is_open()


async def test_a_lone_failing_operation_leaves_the_gate_open(store: Store) -> None:
    """An operation's own mistake says nothing about the disk."""

    def duplicate(connection: Connection) -> None:
        for _ in range(2):
            connection.execute(insert(schema.counter), {"name": "same", "value": 1})

    with pytest.raises(Exception, match="UNIQUE"):
        await store.write(duplicate)
    assert store.gate.is_open()
    assert await store.read(_values) == []


async def test_committed_is_called_even_if_the_caller_went_away(store: Store) -> None:
    """Memory that mirrors rows is told of a commit whose caller was cancelled."""
    told: list[str] = []
    task = asyncio.ensure_future(store.write(lambda c: "kept", committed=told.append))  # noqa: TID251
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(lambda c: None)
    assert told == ["kept"]


async def test_a_call_back_that_raises_costs_only_its_own_caller(store: Store, gathering: threading.Event) -> None:
    """The others of its group are answered as usual, and it hears an error that does not say `not committed`."""

    def fail(result: str) -> None:
        raise LookupError(f"nobody knows {result}")

    def stop(connection: Connection) -> None:
        raise StopIteration

    tasks = [
        asyncio.ensure_future(work)  # noqa: TID251
        for work in (
            store.write(lambda c: "first", committed=fail),
            store.write(stop),
            store.write(lambda c: "third"),
        )
    ]
    await asyncio.sleep(0)
    gathering.set()
    async with asyncio.timeout(5.0):
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, LookupError)
    assert isinstance(second, RuntimeError)
    assert third == "third"


async def test_a_writer_that_breaks_down_says_so(
    store: Store, gathering: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own in the thread: all who wait are refused, later writes too, the gate shuts, and it is told."""

    def fail(self: CommitThread, group: list[Write]) -> None:
        raise OSError("disk")

    def break_down(self: CommitThread, group: list[Write], error: Exception) -> None:
        raise MemoryError("no room for the message")

    monkeypatch.setattr(CommitThread, "_transaction", fail)
    monkeypatch.setattr(CommitThread, "_failed", break_down)
    watch = asyncio.ensure_future(store.ended())  # noqa: TID251
    tasks = [asyncio.ensure_future(store.write(lambda c: None)) for _ in range(50)]  # noqa: TID251
    await asyncio.sleep(0)
    gathering.set()
    async with asyncio.timeout(5.0):
        results = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(StoreFailed, match="MemoryError: no room"):
            await watch
    assert all(isinstance(result, StoreFailed) for result in results)
    assert "ended by our fault" in store.gate.reason
    with pytest.raises(StoreFailed, match="ended by our fault"):
        await store.write(lambda c: None)


async def test_an_ordinary_close_is_an_ordinary_end(store: Store) -> None:
    """Whoever watches the writer is told of its end, without an error; one that stops watching disturbs nothing."""
    impatient = asyncio.ensure_future(store.ended())  # noqa: TID251
    watch = asyncio.ensure_future(store.ended())  # noqa: TID251
    await asyncio.sleep(0)
    impatient.cancel()
    await store.close()
    async with asyncio.timeout(5.0):
        await watch


async def test_readers_cannot_write(store: Store) -> None:
    """A read operation that tries to change something is refused."""
    with pytest.raises(StoreFailed, match="readonly"):
        await store.read(lambda c: c.execute(insert(schema.counter), {"name": "x", "value": 1}))


async def test_a_second_writer_is_refused(store: Store, tmp_path: Path) -> None:
    """Two keepers on one database: the second is told so at once."""
    with pytest.raises(StoreLocked, match="in use by another mailfront"):
        Store.open(_url(tmp_path), SystemClock())


async def test_reading_beside_the_writer_and_after_it(store: Store, tmp_path: Path) -> None:
    """An offline reader works while the writer runs and after it ended, and never writes."""
    await store.write(lambda c: c.execute(insert(schema.counter), {"name": "a", "value": 7}))
    beside = Store.open_to_read(_url(tmp_path), SystemClock())
    assert await beside.read(_values) == [7]
    await store.close()
    assert await beside.read(_values) == [7]
    with pytest.raises(StoreFailed, match="read only"):
        await beside.write(lambda c: None)
    await beside.close()
    after = Store.open_to_read(_url(tmp_path), SystemClock())
    assert await after.read(_values) == [7]
    await after.close()


async def test_after_close_everything_is_refused(store: Store) -> None:
    """A closed store raises StoreFailed instead of hanging."""
    await store.close()
    with pytest.raises(StoreFailed):
        await store.write(lambda c: None)
    with pytest.raises(StoreFailed):
        await store.read(_values)


async def test_nobody_else_can_read_the_mail(store: Store, tmp_path: Path) -> None:
    """The database and its logs are for the server's own user."""
    await store.write(lambda c: c.execute(insert(schema.counter), {"name": "a", "value": 7}))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0o600)


def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    """What cannot be opened at all is one clear line."""
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StoreFailed, match="check its owner"):
        Store.open(_url(tmp_path), SystemClock())


def test_missing_database_is_named(tmp_path: Path) -> None:
    """Reading a database that is not there says where it looked."""
    with pytest.raises(StoreRefused, match="no such database"):
        Store.open_to_read(_url(tmp_path), SystemClock())


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A directory that does not exist is one clear line."""
    with pytest.raises(StoreFailed, match="directory must exist"):
        Store.open(f"sqlite:///{tmp_path}/nowhere/state.db", SystemClock())


@pytest.mark.parametrize("damage", [b"this is a text file, not a database at all\n" * 50, b"SQLite format 3\0" * 300])
def test_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    """A file that is no database is refused with what to do, and is left as it was."""
    path = tmp_path / "state.db"
    path.write_bytes(damage)
    with pytest.raises(StoreRefused, match=r"damaged.*move it away"):
        Store.open(_url(tmp_path), SystemClock())
    with pytest.raises(StoreRefused, match="damaged"):
        Store.open_to_read(_url(tmp_path), SystemClock())
    assert path.read_bytes() == damage


def test_foreign_lock_is_named(tmp_path: Path) -> None:
    """A database that another program keeps locked is refused as locked, not as damaged."""
    Store.open(_url(tmp_path), SystemClock())._close()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLocked, match="locked by another process"):
        Store.open(_url(tmp_path), SystemClock())
    other.close()


async def test_pragmas_of_the_writer(store: Store) -> None:
    """The writer commits with fsync, checks foreign keys, and its file can shrink."""

    def look(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum")
        return {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

    found = await store.write(look)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2}


async def test_reclaim_shrinks_the_file(store: Store, tmp_path: Path) -> None:
    """Pages of deleted rows go back to the file system, piece by piece."""

    def free_pages(connection: Connection) -> int:
        return int(connection.execute(text("PRAGMA freelist_count")).scalar_one())

    rows = [{"name": f"n{number}", "value": number} for number in range(20_000)]
    await store.write(lambda c: c.execute(insert(schema.counter), rows))
    await store.write(lambda c: c.execute(schema.counter.delete()))
    left = await store.write(free_pages)
    assert left > 50
    assert await store.reclaim(10) == left - 10
    while left:
        left = await store.reclaim(1000)


async def test_too_many_waiting_writes_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of waiting writes has an end."""
    monkeypatch.setattr("mailfront.store.commits.MAX_WAITING", 0)
    with pytest.raises(StoreFailed, match="waiting already"):
        await store.write(lambda c: None)


async def test_a_long_read_is_interrupted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that takes too long ends with StoreFailed, and the next one works."""
    monkeypatch.setattr("mailfront.store.reads.MAX_READ_S", 0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(StoreFailed, match="interrupted"):
        await store.read(lambda c: c.execute(text(endless)).scalar())
    assert await store.read(_values) == []


@pytest.mark.parametrize(
    "url", ["state.db", "sqlite:///state.db", "sqlite://", "mysql://h/db", "sqlite:////tmp/x?mode=ro"]
)
def test_urls_that_are_refused(url: str) -> None:
    """Only an absolute SQLite path can be opened."""
    with pytest.raises(ConfigError, match="absolute path"):
        Store.open(url, SystemClock())


def test_postgresql_is_not_in_this_version() -> None:
    """PostgreSQL is refused by name."""
    with pytest.raises(ConfigError, match="not in this version"):
        Store.open("postgresql://u@h/db", SystemClock())
