"""The keeper's end of `QueueClient`: answers workers, tells them about the gate, and notices workers that died.

A request that the store cannot commit is answered `refused`: the worker then knows that nothing was kept. Any other
failure reaches it as "no answer", and it asks again.

A worker's leases end when its process is gone, not when its connection is: an attempt may still be under way there.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId, is_message_id
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.mail.names import NodeId
from mailfront.net.channel import ChannelServer, Peer, Refused, Request
from mailfront.observe import log as observe_log
from mailfront.observe import metrics
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.handoff_rows import HandoffTable
from mailfront.queue.queue import Queue
from mailfront.queue.sent_body import received_body
from mailfront.queue.wire import (
    copy_from_wire,
    message_from_wire,
    outcomes_from_wire,
    places_from_wire,
    recipient_from_wire,
)
from mailfront.store.errors import StoreFailed

GATE_EVERY_S = 0.5
GONE_EVERY_S = 0.2
GONE_WITHIN_S = 10.0

log = observe_log.get("queue")


def owner_of(pid: int) -> str:
    """The name under which a process holds leases."""
    return f"pid:{pid}"


class QueueService:
    """See the module. Order of calls: `serve` before `server.start()`, `start`, then `peer_came` and `peer_gone` from
    the server's call-backs, `close`. `wake` is called whenever rows may have become due."""

    def __init__(self, queue: Queue, handoffs: HandoffTable, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._handoffs = handoffs
        self._wake = wake
        self._server: ChannelServer | None = None
        self._gate_task: asyncio.Task[None] | None = None
        self._pushed: dict[str, Any] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def serve(self, server: ChannelServer) -> None:
        """Register the verbs."""
        self._server = server
        server.handle("queue.accept", self._accept)
        server.handle("queue.settle", self._settle)
        server.handle("queue.disown", self._disown)
        server.handle("queue.hint_begin", self._hint_begin)
        server.handle("queue.hints_superseded", self._hints_superseded)

    async def start(self) -> None:
        """End the leases of processes that died before this keeper started, then begin to push the gate."""
        owners = {*await self._queue.lease_owners(), *await self._handoffs.lease_owners()}
        for owner in sorted(owners):
            pid = int(owner.removeprefix("pid:")) if owner.removeprefix("pid:").isdigit() else 0
            if pid == os.getpid() or not _is_alive(pid):
                await self._release(owner)
        self._gate_task = spawn(self._watch_gate(), name="queue gate")

    async def close(self) -> None:
        """Stop pushing and watching."""
        tasks = [*self._watching, *([self._gate_task] if self._gate_task is not None else [])]
        await cancel_and_wait(*tasks)

    def peer_came(self, peer: Peer) -> None:
        """A worker connected: tell it about the gate."""
        if self._server is not None:
            self._server.push("queue_gate", self._gate(), peer)

    def peer_gone(self, peer: Peer) -> None:
        """A worker's connection ended; if its process ends too, its leases do."""
        task = spawn(self._watch_process(peer.pid), name=f"leases of pid {peer.pid}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _accept(self, request: Request) -> dict[str, Any]:
        payload = request.payload
        body = received_body(request.take_fd(), payload["body"])
        message = message_from_wire(payload["message"])
        recipients = [recipient_from_wire(wire) for wire in payload["recipients"]]
        places = places_from_wire(payload["hints_superseded"])
        refused = [recipient_from_wire(wire) for wire in payload["refused"]]
        told = [(recipient_from_wire(wire), NoticeKind(kind)) for wire, kind in payload["told"]]
        _require_id(message.id)
        owner = owner_of(request.peer.pid)
        try:
            kept_count = await self._queue.accept(
                message, body, recipients, places, refused=refused, told=told, owner=owner
            )
        except StoreFailed as error:
            self._push_gate()
            return {"refused": str(error)}
        metrics.QUEUE_ACCEPTED.inc(amount=kept_count)
        self._wake()
        return {}

    async def _settle(self, request: Request) -> dict[str, Any]:
        message_id = _require_id(request.payload["id"])
        outcomes = outcomes_from_wire(request.payload["outcomes"])
        try:
            # A worker only settles the attempt under which it accepted the rows.
            await self._queue.settle(
                message_id,
                outcomes,
                attempts=dict.fromkeys(outcomes, 1),
                withdrawn=request.payload["withdrawn"],
            )
        except StoreFailed as error:
            return {"refused": str(error)}
        self._wake()
        return {}

    async def _disown(self, request: Request) -> dict[str, Any]:
        return await self._answered(
            self._queue.disown(_require_id(request.payload["id"]), owner=owner_of(request.peer.pid))
        )

    async def _hint_begin(self, request: Request) -> dict[str, Any]:
        copy = copy_from_wire(request.payload["copy"])
        _require_id(copy.id)
        return await self._answered(self._handoffs.begin(copy, NodeId(request.payload["holder"])))

    async def _hints_superseded(self, request: Request) -> dict[str, Any]:
        message_id = _require_id(request.payload["id"])
        places = places_from_wire(request.payload["places"])
        return await self._answered(self._handoffs.supersede(message_id, places))

    async def _answered(self, work: Any) -> dict[str, Any]:
        try:
            await work
        except StoreFailed as error:
            return {"refused": str(error)}
        return {}

    def _gate(self) -> dict[str, Any]:
        gate = self._queue.store.gate
        return {"reason": gate.reason, "room_bytes": gate.room_bytes}

    def _push_gate(self) -> None:
        gate, before = self._gate(), self._pushed
        room, room_before = gate["room_bytes"], before.get("room_bytes", -1)
        if gate["reason"] == before.get("reason") and abs(room - room_before) * 8 <= room_before:
            return
        if bool(gate["reason"]) != bool(before.get("reason")):
            observe_log.emit("queue_gate", state="shut" if gate["reason"] else "open", reason=gate["reason"])
        metrics.QUEUE_GATE_OPEN.set(0 if gate["reason"] else 1)
        self._pushed = gate
        if self._server is not None:
            self._server.push("queue_gate", gate)

    async def _watch_gate(self) -> None:
        while True:
            self._push_gate()
            await asyncio.sleep(GATE_EVERY_S)

    async def _watch_process(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + GONE_WITHIN_S
        while _is_alive(pid):
            if loop.time() > deadline_s:
                return  # It lives and will connect again; at the worst its leases lapse.
            await asyncio.sleep(GONE_EVERY_S)
        await self._release(owner_of(pid))

    async def _release(self, owner: str) -> None:
        try:
            count = await self._queue.release_leases_of(owner)
            count += await self._handoffs.release_leases_of(owner)
        except Unavailable as error:
            log.warning("leases of a process that died are left to lapse", owner=owner, reason=str(error))
            return
        if count:
            observe_log.emit("queue_lapsed", owner=owner, rows_count=count)
            self._wake()


def _require_id(text: object) -> MessageId:
    if not isinstance(text, str) or not is_message_id(text):
        raise Refused("that is not a message id")
    return MessageId(text)


def _is_alive(pid: int) -> bool:
    if pid <= 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False
