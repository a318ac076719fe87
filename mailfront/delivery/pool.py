"""The connections of this process to one node.

An attempt holds one *slot* from its start to its end; there are `lmtp_connections` of them, so a node that hangs never
holds more than that. A slot uses the connection that went idle last, or a new one. Those who wait for a slot are
served in order, each for as long as it said, at most `MAX_WAITING` of them.

Idle connections are watched: one that is closed by the node, or says anything (421 too), is dropped before anybody
gets it. One that is unused for `idle_timeout`, or too old, or has carried enough messages, is closed with QUIT.
"""

import asyncio
from collections import deque

from mailfront.delivery.connection import LmtpConnection, PeerTrouble
from mailfront.delivery.dialing import Dialer
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.trouble import Cause, Stage, Trouble
from mailfront.mail.names import NodeId
from mailfront.observe import metrics

MAX_WAITING = 10_000
GAUGES_EVERY_S = 1.0
_CONNECT_RESULTS = {Cause.NO_CONNECTION: "refused", Cause.STALLED: "timeout", Cause.LOST: "lost"}


class LmtpPool:
    """Slots and idle connections of one node. `acquire_slot`, `connection`, then `release` once for each slot."""

    def __init__(self, node: NodeId, dialer: Dialer, settings: DeliverySettings, *, slots_count: int) -> None:
        self._node = node
        self._dialer = dialer
        self._settings = settings
        self._slots_count = slots_count
        self._busy_count = 0
        self._idle: list[LmtpConnection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._retired = False
        self._gauges_timer: asyncio.TimerHandle | None = None

    @property
    def busy_count(self) -> int:
        """Slots in use."""
        return self._busy_count

    @property
    def idle_count(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    def try_slot(self) -> bool:
        """Take a slot if one is free now."""
        if self._busy_count < self._slots_count:
            self._busy_count += 1
            self._changed()
            return True
        return False

    async def acquire_slot(self, wait_s: float) -> None:
        """Wait at most `wait_s` for a slot. Raises PeerTrouble if there is none by then. Cancellation is safe."""
        if self.try_slot():
            return
        if wait_s <= 0 or len(self._waiting) >= MAX_WAITING:
            raise self._no_slot(0.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # the slot came in the same moment
            if isinstance(error, TimeoutError):
                raise self._no_slot(wait_s) from None
            raise

    async def connection(self, *, fresh: bool) -> tuple[LmtpConnection, bool]:
        """A connection for a slot that the caller holds, and whether it was used before. Raises PeerTrouble."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            connection.on_idle_end = None
            if connection.is_reusable:
                return connection, True
        try:
            connection = await self._dialer.dial()
        except PeerTrouble as error:
            metrics.DELIVERY_CONNECTS.inc(self._node, _connect_result(error.trouble))
            raise
        metrics.DELIVERY_CONNECTS.inc(self._node, "ok")
        return connection, False

    def release(self, connection: LmtpConnection | None) -> None:
        """Give back a slot, with the connection if it may still be good."""
        if connection is not None:
            if self._may_keep(connection):
                connection.on_idle_end = self._forget
                self._idle.append(connection)
                connection.rest(self._settings.idle_timeout)
            else:
                connection.quit()
        self._pass_on()

    def retire(self) -> None:
        """Close the idle connections now and the others when they are released; slots go on being served."""
        self._retired = True
        for connection in list(self._idle):
            self._forget(connection)
            connection.on_idle_end = None
            connection.quit()
        if self._gauges_timer is not None:
            self._gauges_timer.cancel()
        self._show_gauges()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy_count -= 1
        self._changed()

    def _changed(self) -> None:
        """Show the gauges soon: not for every message."""
        if self._gauges_timer is None:
            self._gauges_timer = asyncio.get_running_loop().call_later(GAUGES_EVERY_S, self._show_gauges)

    def _show_gauges(self) -> None:
        self._gauges_timer = None
        metrics.DELIVERY_CONNECTIONS.set(self._busy_count, self._node, "busy")
        metrics.DELIVERY_CONNECTIONS.set(len(self._idle), self._node, "idle")

    def _may_keep(self, connection: LmtpConnection) -> bool:
        settings = self._settings
        age_s = asyncio.get_running_loop().time() - connection.opened_s
        return (
            connection.is_reusable
            and not self._retired
            and connection.messages_count < settings.connection_messages
            and age_s < settings.connection_lifetime
        )

    def _forget(self, connection: LmtpConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._changed()

    def _no_slot(self, wait_s: float) -> PeerTrouble:
        metrics.DELIVERY_SLOT_TIMEOUTS.inc(self._node)
        text = f"all {self._slots_count} connections are busy, waited {wait_s:g} s"
        return PeerTrouble(Trouble(Stage.SLOT, Cause.NO_SLOT, text))


def _connect_result(trouble: Trouble) -> str:
    if trouble.stage is Stage.TLS:
        return "tls_failed"
    if trouble.reply is not None or trouble.cause is Cause.GARBLED:
        return "rejected"
    return _CONNECT_RESULTS.get(trouble.cause, "lost")
