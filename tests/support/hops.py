"""A queue over a real store, and a runner that serves the next hops which a test makes.

    async with HopRig(tmp_path, {HOP: (hop, 4)}) as rig:
        await rig.put("ana@x", "ben@x", hop=HOP)
        await rig.until(lambda rows: not rows)

Waits between attempts, and pauses of hops that fail, are short.
"""

import asyncio
import email
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from flufl.bounce import all_failures

from mailfront.base.clock import SystemClock
from mailfront.base.ids import MessageId
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.cluster.node_table import NodeStateTable
from mailfront.mail.body import BodyRef, MemoryBody
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.names import NodeId, NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.mail.outcome import Delivered, Outcome
from mailfront.mail.reply import reply
from mailfront.observe.health import HealthTable
from mailfront.queue.queue import Queue
from mailfront.queue.rows import Claimed, QueuedMessage, QueuedRecipient
from mailfront.store import recipient_rows
from mailfront.store.writer import Connection
from mailfront.transfer.hops import NextHop
from mailfront.transfer.runner import QueueRunner
from tests.support.delivery import delivery_to, endpoint_of
from tests.support.queue_rows import NOTICES, FakeHomes, message_id, open_store, queued_message

BODY = b"Subject: to other systems\r\nMessage-ID: <m1@out.example>\r\n\r\nhello\r\n.a dot\r\n"
PATIENCE_S = 20.0
NOBODY = endpoint_of(("127.0.0.1", 1))


class NobodySearches:
    """No master user: other systems have none of ours."""

    can_search = False

    async def find(self, node: NodeId, node_user: str, message_id: MessageId, arrived_s: float) -> bool | None:
        """See `MailboxSearch`."""
        return None


@dataclass(frozen=True)
class CaughtNotice:
    """A notice that was to be looked up and sent."""

    message: QueuedMessage
    to: str
    content: bytes

    @property
    def failures(self) -> set[bytes]:
        """Whom a parser that others wrote finds to have failed for good."""
        return set(all_failures(email.message_from_bytes(self.content))[1])

    def field(self, name: str) -> list[str]:
        """The values of a field in the part for programs, in order."""
        return [
            line.partition(":")[2].strip()
            for line in self.content.decode().splitlines()
            if line.lower().startswith(f"{name.lower()}:")
        ]


class _Catcher:
    """The hop that would look up who gets a notice."""

    def __init__(self) -> None:
        self.caught: list[CaughtNotice] = []

    async def attempt(
        self, claimed: Claimed, body: BodyRef, before_dot: Callable[[], Awaitable[None]]
    ) -> Mapping[int, Outcome]:
        """See `NextHop`."""
        (row,) = claimed.recipients
        self.caught.append(CaughtNotice(claimed.message, row.address, b"".join(body.pieces())))
        return {row.number: Delivered(RESOLVE, reply(250, "2.0.0", "caught"))}


class HopRig:
    """See the module. Use it as an async context manager."""

    def __init__(
        self,
        folder: Path,
        hops: Mapping[NodeId, tuple[NextHop, int]],
        *,
        retry_s: float = 1.0,
        pause_s: float = 0.2,
    ) -> None:
        self.clock = SystemClock()
        self.health = HealthTable(self.clock)
        self.store = open_store(folder, self.clock)
        catcher = _Catcher()
        self.notices = catcher.caught
        hops = {**hops, RESOLVE: (catcher, 4)}
        self.homes = FakeHomes(pins={(NEXT_HOP_BUCKET, next_hop_key(hop)): hop for hop in hops})
        self.queue = Queue(self.store, self.homes, retry_s=(retry_s,), notices=NOTICES, alarm=self.health.raise_alarm)
        self._unused = delivery_to(NOBODY)
        self.runner = QueueRunner(
            self.queue,
            self._unused,
            NodeStateTable([]),
            NobodySearches(),
            self.clock,
            owner="pid:1",
            slots={},
            hops=hops,
            alarms=self.health,
            lease_s=900.0,
            final_timeout_s=600.0,
            first_pause_s=pause_s,
        )
        self._count = 0

    async def __aenter__(self) -> "HopRig":
        self._task = spawn(self.runner.run(), name="runner")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_and_wait(self._task)
        await self.runner.drain(1.0)
        await self._unused.close()
        await self.store.close()

    async def put(
        self,
        *addresses: str,
        hop: NodeId,
        body: bytes = BODY,
        options: RecipientOptions | Sequence[RecipientOptions] = NO_OPTIONS,
        sender: str | None = "sender@out.example",
        body_type: BodyType = BodyType.SEVENBIT,
        smtputf8: bool = False,
        ret: str | None = None,
        envid: str | None = None,
    ) -> MessageId:
        """Queue one message for these addresses at a hop, due now."""
        self._count += 1
        now_s = self.clock.wall_s()
        wishes = [options] * len(addresses) if isinstance(options, RecipientOptions) else list(options)
        rows = [
            QueuedRecipient(
                number=number,
                address=address,
                mailbox_key=next_hop_key(hop),
                bucket=NEXT_HOP_BUCKET,
                node_user=NodeUser(address),
                options=wish,
                next_attempt_s=now_s,
            )
            for number, (address, wish) in enumerate(zip(addresses, wishes, strict=True))
        ]
        message = replace(
            queued_message(self._count, now_s),
            reverse_path=sender,
            body_type=body_type,
            smtputf8=smtputf8,
            ret=ret,
            envid=envid,
        )
        await self.queue.accept(message, MemoryBody(body), rows)
        self.runner.wake()
        return message_id(self._count)

    async def rows(self) -> list[QueuedRecipient]:
        """The rows of all messages that were put here, by message and number."""

        def read(connection: Connection) -> list[Any]:
            ids = [message_id(number) for number in range(1, self._count + 1)]
            return [row for each in ids for row in recipient_rows.recipient_rows(connection, each)]

        return [recipient_rows.recipient_from_row(row) for row in await self.store.read(read)]

    async def until(self, condition: Callable[[list[QueuedRecipient]], object]) -> list[QueuedRecipient]:
        """Wait until the rows are as wanted, and return them."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(rows := await self.rows()):
                await asyncio.sleep(0.02)
        return rows

    async def until_told(self, count: int) -> list[CaughtNotice]:
        """Wait for so many notices, and return all."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.notices) < count:
                await asyncio.sleep(0.02)
        return self.notices
