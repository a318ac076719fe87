"""The queue as a worker sees it: `QueuePort` over the channel to the keeper.

A request whose answer is lost (the keeper died or was too slow) may have been committed. It is sent again until an
answer comes, for up to `ACCEPT_WITHIN_S`; that is harmless, because everything goes by the message's id. If no answer
came by then, the caller says 451 and the keeper is told later to forget the id, so that the client's second try is not
delivered twice. A request that could not even be sent fails after `RECONNECT_WITHIN_S`.

Results of attempts are kept here until the keeper has committed them, at most `MOST_KEPT` messages; beyond that the
rows' leases lapse. The gate is what the keeper said last, and shut while the keeper is away.

What survives a crash: what the keeper committed. A kept result that dies with this process leaves its rows `unknown`.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from mailfront.base.backoff import exponential_s
from mailfront.base.clock import Clock
from mailfront.base.errors import Unavailable
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.mail.body import BodyRef
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Outcome
from mailfront.net.channel import Channel, Payload
from mailfront.observe import log as observe_log
from mailfront.queue.dsn import NoticeKind
from mailfront.queue.port import HandoffCopy
from mailfront.queue.rows import QueuedMessage, QueuedRecipient
from mailfront.queue.sent_body import SentBody
from mailfront.queue.wire import (
    Wire,
    copy_to_wire,
    message_to_wire,
    outcomes_to_wire,
    places_to_wire,
    recipient_to_wire,
)

ACCEPT_WITHIN_S = 60.0
ANSWER_WITHIN_S = 15.0
HINT_WITHIN_S = 10.0
RECONNECT_WITHIN_S = 5.0
CLOSE_WITHIN_S = 5.0
MOST_KEPT = 20_000
BODIES_AT_ONCE = 16
_FIRST_WAIT_S = 0.1
_MOST_WAIT_S = 2.0

log = observe_log.get("queue")


class QueueClient:
    """See the module. Make it before `channel.start()`; `close` it before the channel."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._room_bytes = 0
        self._reason = "the keeper has not said that the queue is open"
        self._kept: dict[MessageId, list[Wire]] = {}
        self._disowned: set[MessageId] = set()
        self._sender: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._bodies = asyncio.Semaphore(BODIES_AT_ONCE)
        channel.on_push("queue_gate", self._gate_pushed)
        channel.on_lost(self._lost)
        channel.on_connected(self._wake.set)

    @property
    def kept_count(self) -> int:
        """Messages whose results the keeper has not committed yet."""
        return len(self._kept)

    def gate_is_open(self, size_bytes: int) -> bool:
        """See `QueuePort`."""
        return not self._reason and size_bytes <= self._room_bytes

    @property
    def gate_reason(self) -> str:
        """Why the gate is shut, as far as this process knows; '' when it is open."""
        return self._reason

    async def accept(
        self,
        message: QueuedMessage,
        body: BodyRef,
        recipients: Sequence[QueuedRecipient],
        hints_superseded: Sequence[tuple[NodeId, NodeId]] = (),
        refused: Sequence[QueuedRecipient] = (),
        told: Sequence[tuple[QueuedRecipient, NoticeKind]] = (),
    ) -> None:
        """See `QueuePort`. Cancellation: it may be kept all the same."""
        payload: Payload = {
            "message": message_to_wire(message),
            "recipients": [recipient_to_wire(row) for row in recipients],
            "hints_superseded": places_to_wire(hints_superseded),
            "refused": [recipient_to_wire(row) for row in refused],
            "told": [[recipient_to_wire(row), kind.value] for row, kind in told],
        }
        async with self._bodies:
            sent = await SentBody.send(body)
            try:
                payload["body"] = sent.wire
                await self._ask("queue.accept", payload, (sent.fd,), within_s=ACCEPT_WITHIN_S, disown=message.id)
            finally:
                sent.close()

    async def settle(
        self,
        message_id: MessageId,
        outcomes: Mapping[int, Outcome],
        *,
        withdrawn: Collection[int] = (),
    ) -> None:
        """See `QueuePort`: returns at once, the results are kept here until they are committed."""
        if len(self._kept) >= MOST_KEPT:
            log.warning("too many results wait for the keeper; the rows will be unknown", id=message_id)
            return
        wire = {"id": message_id, "outcomes": outcomes_to_wire(outcomes), "withdrawn": list(withdrawn)}
        self._kept.setdefault(message_id, []).append(wire)
        self._work()

    async def hint_begin(self, copy: HandoffCopy, holder: NodeId) -> None:
        """See `QueuePort`. Cancellation: the hint may be kept; the scan finds that there is no copy."""
        await self._ask("queue.hint_begin", {"copy": copy_to_wire(copy), "holder": holder}, within_s=HINT_WITHIN_S)

    async def hints_superseded(self, message_id: MessageId, places: Sequence[tuple[NodeId, NodeId]]) -> None:
        """See `QueuePort`."""
        payload = {"id": message_id, "places": places_to_wire(places)}
        await self._ask("queue.hints_superseded", payload, within_s=HINT_WITHIN_S)

    async def close(self) -> None:
        """Give the kept results a last chance of a few seconds, then stop."""
        if self._sender is None:
            return
        if self._kept or self._disowned:
            self._wake.set()
            await asyncio.wait([self._sender], timeout=CLOSE_WITHIN_S)
        await cancel_and_wait(self._sender)

    async def _ask(
        self,
        verb: str,
        payload: Payload,
        fds: tuple[int, ...] = (),
        *,
        within_s: float,
        disown: MessageId | None = None,
    ) -> None:
        """Ask until there is an answer. Raises Unavailable: refused, never sent, or no answer in time."""
        deadline_s = self._clock.monotonic_s() + within_s
        failures_count, was_sent = 0, False
        while True:
            left_s = deadline_s - self._clock.monotonic_s()
            if not was_sent and not self._channel.is_connected:
                # A keeper that is being exchanged is back in a second or two: less than a 451 costs the client.
                await self._channel.wait_connected(max(0.05, min(left_s, RECONNECT_WITHIN_S)))
            was_sent = was_sent or self._channel.is_connected
            try:
                answer = await self._channel.request(
                    verb, payload, fds, timeout_s=max(0.05, min(left_s, ANSWER_WITHIN_S))
                )
            except Unavailable:
                failures_count += 1
                wait_s = exponential_s(failures_count, first_s=_FIRST_WAIT_S, most_s=_MOST_WAIT_S)
                if not was_sent:
                    raise
                if self._clock.monotonic_s() + wait_s >= deadline_s:
                    if disown is not None:
                        self._disown(disown)
                    raise
                await asyncio.sleep(wait_s)
                continue
            if "refused" in answer:
                raise Unavailable(f"queue: {answer['refused']}")
            return

    def _disown(self, message_id: MessageId) -> None:
        log.warning("the keeper did not say whether it keeps a message; it will be told to forget it", id=message_id)
        self._disowned.add(message_id)
        self._work()

    def _work(self) -> None:
        self._wake.set()
        if self._sender is None or self._sender.done():
            self._sender = spawn(self._send_kept(), name="queue results")

    async def _send_kept(self) -> None:
        """Send what is kept until nothing is left; wait while the keeper is away."""
        failures_count = 0
        while self._kept or self._disowned:
            try:
                await self._send_once()
                failures_count = 0
            except Unavailable:
                failures_count += 1
                self._wake.clear()
                wait_s = exponential_s(failures_count, first_s=_FIRST_WAIT_S, most_s=_MOST_WAIT_S)
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _send_once(self) -> None:
        """Send everything once. One message that the keeper cannot settle does not hold up the others.

        Raises Unavailable if something is left: at once when the keeper is away.
        """
        failure: Unavailable | None = None
        for message_id in [*self._disowned, *self._kept]:
            try:
                await self._send_one(message_id)
            except Unavailable as error:
                failure = error
                if not self._channel.is_connected:
                    break
        if failure is not None:
            raise failure

    async def _send_one(self, message_id: MessageId) -> None:
        if message_id in self._disowned:
            await self._request("queue.disown", {"id": message_id})
            self._disowned.discard(message_id)
        results = self._kept.get(message_id, [])
        while results:
            await self._request("queue.settle", results[0])
            del results[0]
        self._kept.pop(message_id, None)

    async def _request(self, verb: str, payload: Payload) -> None:
        answer = await self._channel.request(verb, payload, timeout_s=ANSWER_WITHIN_S)
        if "refused" in answer:
            raise Unavailable(str(answer["refused"]))

    def _gate_pushed(self, push: Payload) -> None:
        self._reason = str(push.get("reason", ""))
        self._room_bytes = int(push.get("room_bytes", 0))

    def _lost(self, reason: str) -> None:
        self._reason = f"the keeper is away ({reason})"
