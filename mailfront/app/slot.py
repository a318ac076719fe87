"""A place in the supervisor that is always filled: a process that ends unasked is started again, with back-off.

`start` brings the first process up and fails loudly; after that the slot looks after itself until `stop`. A restarted
process gets the same orders. A process that ran for a minute is taken for healthy and the back-off begins anew.
"""

import asyncio
from collections.abc import Callable

from mailfront.app.assignment import Assignment
from mailfront.app.child import Child, StartFailed, start_child
from mailfront.base.backoff import exponential_s, jittered_s
from mailfront.base.tasks import spawn
from mailfront.observe.log import emit

READY_WITHIN_S = 60.0
HEALTHY_AFTER_S = 60.0
FIRST_RESTART_S = 0.2
MOST_RESTART_S = 30.0


class Slot:
    """One keeper or worker. `changed` is called after each start and end, with the slot's `pid` up to date."""

    def __init__(
        self,
        name: str,
        module: str,
        assignment: Assignment,
        pass_fds: tuple[int, ...],
        lifeline_fd: int,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._module = module
        self._assignment = assignment
        self._pass_fds = pass_fds
        self._lifeline_fd = lifeline_fd
        self._changed = changed
        self._child: Child | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self.restarts_count = 0

    @property
    def pid(self) -> int | None:
        """The process in this slot now, if there is one."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    async def start(self) -> None:
        """Bring the process up. Raises StartFailed with its own reason; the slot is then empty and stays so."""
        await self._start_once()
        self._watch = spawn(self._keep_running(), name=f"watch {self.name}")

    async def start_sooner_or_later(self) -> None:
        """Bring the process up. One that cannot start now is tried again with back-off, like one that died."""
        try:
            await self.start()
        except (StartFailed, OSError) as error:
            self._watch = spawn(self._keep_running(str(error)), name=f"watch {self.name}")

    def terminate(self) -> None:
        """Ask the process to drain and end; it will not be restarted."""
        self._stopping = True
        if self._child is not None:
            self._child.terminate()

    async def retire(self, within_s: float, grace_s: float) -> None:
        """Let the process finish its sessions; it will not be restarted. After `within_s` it is stopped."""
        self._stopping = True
        if self._child is not None:
            self._child.retire()
            try:
                async with asyncio.timeout(within_s):
                    await self._child.process.wait()
            except TimeoutError:
                pass
        await self.stop(grace_s)

    async def takes_nobody_in(self) -> None:
        """Wait until the process has stopped to accept, after `retire` has begun. At once if there is none."""
        if self._child is not None:
            await self._child.takes_nobody_in()

    async def stop(self, grace_s: float) -> None:
        """Drain the process, kill it after `grace_s`, and leave the slot empty."""
        self.terminate()
        if self._watch is not None:
            self._watch.cancel()
        if self._child is not None:
            await self._child.ended(grace_s)
        self._changed()

    async def _start_once(self) -> None:
        self._child = await start_child(
            self.name, self._module, self._assignment, self._pass_fds, self._lifeline_fd, READY_WITHIN_S
        )
        emit("process_started", name=self.name, pid=self._child.pid)
        self._changed()

    async def _keep_running(self, problem: str = "") -> None:
        """Start the process again whenever it ends. `problem`: why it could not be started the first time."""
        failures_count = await self._restart(1, 0.0, problem) if problem else 0
        while self._child is not None:
            await self._child.process.wait()
            if self._stopping:
                return
            uptime_s = asyncio.get_running_loop().time() - self._child.started_s
            failures_count = 1 if uptime_s > HEALTHY_AFTER_S else failures_count + 1
            failures_count = await self._restart(failures_count, uptime_s)

    async def _restart(self, failures_count: int, uptime_s: float, reason: str = "") -> int:
        """Start the process again, as often as it takes. Returns how many failures in a row there were."""
        while True:
            delay_s = jittered_s(exponential_s(failures_count, first_s=FIRST_RESTART_S, most_s=MOST_RESTART_S))
            status = None if self._child is None else self._child.process.returncode
            self.restarts_count += 1
            emit(
                "process_died",
                name=self.name,
                exit_status=status if status is None or status >= 0 else None,
                signal=-status if status is not None and status < 0 else None,
                uptime_s=round(uptime_s, 1),
                restart_in_s=round(delay_s, 1),
                restarts_count=self.restarts_count,
                reason=reason,
            )
            self._changed()
            await asyncio.sleep(delay_s)
            try:
                await self._start_once()
                return failures_count
            except (StartFailed, OSError) as error:
                failures_count, reason, uptime_s = failures_count + 1, str(error), 0.0
