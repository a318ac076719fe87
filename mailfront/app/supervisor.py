"""The parent of all: binds the sockets, drops root, keeps one keeper and N workers running, reloads, drains.

It accepts no connection and touches no mail, so it has nothing to crash on. It holds every listening socket, so a
worker that dies costs only its own sessions: new connections wait in the socket until the next worker is up.

SIGHUP reloads, all or nothing. The file is read once; if anything in it is wrong, a socket cannot be bound, the keeper
refuses (a dropped node still owns mailboxes) or a process does not come up with it, the old configuration stays in
force. Workers of the new configuration serve before those of the old one drain, on the same sockets, so no connection
is lost; a reload is done when the old ones take nobody in any more. SIGTERM and SIGINT drain and end.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

import orjson

from mailfront import __version__
from mailfront.app import sockets
from mailfront.app.assignment import Assignment
from mailfront.app.child import StartFailed
from mailfront.app.keeper_question import ask_keeper_about
from mailfront.app.rehearsal import refuse_unusable_files
from mailfront.app.sd_notify import sd_notify
from mailfront.app.slot import Slot
from mailfront.base.errors import ConfigError, MailfrontError
from mailfront.base.tasks import spawn
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from mailfront.config.server_section import read_text
from mailfront.observe.log import emit, get

WORKER_GRACE_S = 40.0
KEEPER_GRACE_S = 20.0
RETIRE_WITHIN_S = 10.0
MOST_WORKERS = 64

log = get("supervisor")


@dataclass(slots=True)
class Generation:
    """One configuration in force, with the sockets it listens on and the workers that serve it."""

    config: Configuration
    text: str
    listening: dict[str, tuple[socket, ...]]
    workers: list[Slot] = field(default_factory=list)


class Supervisor:
    """Runs one front end until it is told to stop."""

    def __init__(
        self, path: Path, generation: Generation, admin_socket: socket, table_fds: tuple[int, int, int]
    ) -> None:
        """`table_fds`: the connection tables of listeners that take mail, and of those that people log in to; the
        counts of failed logins."""
        self._path = path
        self._now = generation
        self._admin_socket = admin_socket
        self._table_fd, self._sessions_table_fd, self._failures_fd = table_fds
        # Nobody reads or writes here: children see the end of file when this process is gone, even by SIGKILL.
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._keeper: Slot | None = None
        self._leaving: list[Slot] = []
        self._stop = asyncio.Event()
        self._reload_lock = asyncio.Lock()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: spawn(self._reload(), name="reload"))
        emit("process_started", name="supervisor", pid=os.getpid(), version=__version__)
        try:
            self._keeper = await self._start_keeper(self._now)
            self._now.workers = await self._start_workers(self._now)
            self._write_pids()
        except StartFailed as error:
            log.error("cannot start", problem=str(error))
            await self._end()
            return 1
        sd_notify("READY=1")
        await self._stop.wait()
        sd_notify("STOPPING=1")
        await self._end()
        return 0

    async def _start_keeper(self, generation: Generation) -> Slot:
        slot = self._keeper_slot(generation)
        await slot.start()
        return slot

    def _keeper_slot(self, generation: Generation) -> Slot:
        http = tuple(
            (index, generation.listening[section.address][0].fileno())
            for index, section in enumerate(generation.config.listen)
            if section.role == "admin"
        )
        return self._slot("keeper", "mailfront.app.keeper", generation, 0, http, self._admin_socket.fileno())

    async def _start_workers(self, generation: Generation) -> list[Slot]:
        """Start all workers of a generation. If one fails, the others are ended and StartFailed is raised."""
        names = self._free_names()
        slots = []
        for place in range(generation.config.server.workers):
            listeners = tuple(
                (index, each.fileno())
                for index, section in enumerate(generation.config.listen)
                if section.role != "admin"
                for each in sockets.share(
                    generation.listening[section.address], place, generation.config.server.workers
                )
            )
            index = int(names[place].removeprefix("worker-"))
            slots.append(self._slot(names[place], "mailfront.app.worker", generation, index, listeners, -1))
        results = await asyncio.gather(*(slot.start() for slot in slots), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await asyncio.gather(*(slot.stop(WORKER_GRACE_S) for slot in slots))
                raise result
        return slots

    def _free_names(self) -> list[str]:
        """Names of workers that no process has now: each stands for a place in the shared connection table."""
        taken = {slot.name for slot in (*self._now.workers, *self._leaving)}
        return [name for index in range(MOST_WORKERS) if (name := f"worker-{index}") not in taken]

    def _slot(
        self,
        name: str,
        module: str,
        generation: Generation,
        index: int,
        listeners: tuple[tuple[int, int], ...],
        admin_fd: int,
    ) -> Slot:
        orders = Assignment(
            config_path=str(self._path),
            config_text=generation.text,
            index=index,
            listeners=listeners,
            ready_fd=-1,
            lifeline_fd=-1,
            table_fd=self._table_fd,
            sessions_table_fd=self._sessions_table_fd,
            failures_fd=self._failures_fd,
            admin_fd=admin_fd,
        )
        tables = (self._table_fd, self._sessions_table_fd, self._failures_fd)
        inherited = (*(fd for _, fd in listeners), *tables, *([admin_fd] if admin_fd >= 0 else []))
        return Slot(name, module, orders, tuple(dict.fromkeys(inherited)), self._lifeline_read, self._write_pids)

    def _write_pids(self) -> None:
        """Keep `pids.json` in the runtime directory true: for people, for tests, for monitoring."""
        path = self._now.config.server.runtime_dir / "pids.json"
        document = {
            "supervisor": os.getpid(),
            "keeper": self._keeper.pid if self._keeper else None,
            "workers": [slot.pid for slot in self._now.workers if slot.pid],
        }
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(orjson.dumps(document))
            fresh.rename(path)
        except OSError as error:
            log.warning("cannot write pids.json", path=str(path), problem=error.strerror)

    async def _reload(self) -> None:
        async with self._reload_lock:
            sd_notify("RELOADING=1")
            try:
                await self._reload_once()
            except ConfigError as error:
                emit("config_refused", path=str(self._path), problems=list(error.problems))
            except (MailfrontError, OSError) as error:
                emit("config_refused", path=str(self._path), problems=[str(error)])
            finally:
                sd_notify("READY=1")

    async def _reload_once(self) -> None:
        """Bring the file into force, or raise and leave everything as it was."""
        old = self._now
        text = read_text(self._path)
        config = parse(text, self._path)
        sockets.refuse_what_needs_a_restart(old.config, config)
        if len(self._free_names()) < config.server.workers:
            raise ConfigError(("the workers of earlier reloads still finish their sessions; reload again in a minute",))
        await asyncio.to_thread(refuse_unusable_files, config)
        await ask_keeper_about(old.config, text, self._path)
        fresh = Generation(config, text, sockets.rebind(old.listening, config))
        assert self._keeper is not None
        await self._keeper.stop(KEEPER_GRACE_S)
        try:
            self._keeper = await self._start_keeper(fresh)
            fresh.workers = await self._start_workers(fresh)
        except (StartFailed, OSError):
            await self._keeper.stop(KEEPER_GRACE_S)
            self._keeper = self._keeper_slot(old)
            await self._keeper.start_sooner_or_later()
            sockets.close_unused(fresh.listening, old.listening)
            raise
        self._now = fresh
        self._leaving += old.workers
        self._write_pids()
        within_s = old.config.login.reload_grace
        retiring = [spawn(slot.retire(within_s, WORKER_GRACE_S), name=f"retire {slot.name}") for slot in old.workers]
        spawn(self._until_gone(old, retiring), name="the end of the old workers")
        await asyncio.sleep(0)  # they have been told
        sockets.close_unused(old.listening, fresh.listening)
        # Both accept on the same sockets: only when the old ones have stopped do the new rules hold for whoever comes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_WITHIN_S):
                await asyncio.gather(*(slot.takes_nobody_in() for slot in old.workers))
        emit("config_reloaded", path=str(self._path))

    async def _until_gone(self, old: Generation, retiring: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*retiring)
        self._leaving = [slot for slot in self._leaving if slot not in old.workers]

    async def _end(self) -> None:
        """Drain workers, then the keeper: workers need it to keep what they have accepted."""
        await asyncio.gather(*(slot.stop(WORKER_GRACE_S) for slot in (*self._now.workers, *self._leaving)))
        if self._keeper is not None:
            await self._keeper.stop(KEEPER_GRACE_S)
        sockets.close_unused(self._now.listening, {})
        emit("process_stopped", name="supervisor", pid=os.getpid())
