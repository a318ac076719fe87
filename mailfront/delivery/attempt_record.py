"""The record of one attempt: times at the borders of its stages, and the one `delivery` event at its end."""

import asyncio
from collections.abc import Sequence
from typing import Any, assert_never

from mailfront.delivery.message import LmtpTransaction, Phase
from mailfront.delivery.trouble import Ruling
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.observe import log, metrics

MAX_RECIPIENTS_SHOWN = 50


class AttemptRecord:
    """Filled in while the attempt runs. Times are the loop's, in seconds; 0.0: not reached."""

    __slots__ = (
        "_answered_s",
        "_attempt",
        "_body_sent_s",
        "_connected_s",
        "_envelope_s",
        "_home",
        "_loop",
        "_slot_s",
        "_source",
        "_started_s",
        "_tls",
        "retried",
        "reused",
    )

    def __init__(self, *, source: str, home: NodeId | None, attempt: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._home = home
        self._attempt = attempt
        self._started_s = self._loop.time()
        self._slot_s = self._connected_s = self._envelope_s = self._body_sent_s = self._answered_s = 0.0
        self._tls: str | None = None
        self.reused = False
        self.retried = False

    def slot_taken(self) -> None:
        """A connection slot is held, and no connection yet."""
        if not self._slot_s:
            self._slot_s = self._loop.time()

    def connected(self, tls: str | None, *, reused: bool) -> None:
        """A connection is there, ready for MAIL. `tls`: its version and cipher."""
        self._connected_s = self._loop.time()
        self._tls = tls
        self.reused = reused

    def envelope_answered(self) -> None:
        """MAIL, RCPT and DATA are answered."""
        self._envelope_s = self._loop.time()

    def body_sent(self) -> None:
        """The final dot is written now."""
        self._body_sent_s = self._loop.time()

    def answered(self) -> None:
        """The last answer came, or will not come any more."""
        self._answered_s = self._loop.time()

    def waited_for_node_s(self) -> float:
        """How long the node has been asked for something; 0.0 before a slot was free."""
        return self._loop.time() - self._slot_s if self._slot_s else 0.0

    @log.only_tells
    def ended(
        self, node: NodeId, transaction: LmtpTransaction, rulings: Sequence[Ruling], *, phase: Phase, stopped: bool
    ) -> None:
        """Write the event and count the attempt."""
        now_s = self._loop.time()
        outcomes = [ruling.outcome for ruling in rulings]
        first = outcomes[0]
        kinds = [_KINDS[type(outcome)] for outcome in outcomes]
        kind = "aborted" if stopped else kinds[0] if kinds.count(kinds[0]) == len(kinds) else "mixed"
        replies = [describe(outcome) for outcome in outcomes[:MAX_RECIPIENTS_SHOWN]]
        blame = first.blame.value if isinstance(first, Deferred) else None
        metrics.DELIVERY_ATTEMPTS.inc(node, f"{kind}_{blame}" if kind == "deferred" else kind)
        metrics.DELIVERY_SECONDS.observe(now_s - self._started_s, node)
        fields: dict[str, Any] = {
            "id": transaction.id,
            "node": node,
            "source": self._source,
            "attempt": self._attempt,
            "reverse_path": "" if transaction.reverse_path is None else str(transaction.reverse_path),
            "recipients": [
                {"address": recipient.node_user, "outcome": outcome, "reply": reply}
                for recipient, outcome, reply in zip(transaction.recipients, kinds, replies, strict=False)
            ],
            "recipients_count": len(outcomes),
            "size_bytes": transaction.body.size_bytes,
            "outcome": kind,
            "reply": replies[0],
            "phase": phase.value,
            "reused": self.reused,
            "tls": self._tls,
            "slot_ms": _between_ms(self._started_s, self._slot_s),
            "connect_ms": _between_ms(self._slot_s, self._connected_s),
            "envelope_ms": _between_ms(self._connected_s, self._envelope_s),
            "body_ms": _between_ms(self._envelope_s, self._body_sent_s),
            "final_ms": _between_ms(self._body_sent_s, self._answered_s),
            "total_ms": _between_ms(self._started_s, now_s),
        }
        if blame is not None:
            fields["blame"] = blame
        if self._home is not None:
            fields["home"] = self._home
        if self.retried:
            fields["retried"] = True
        log.emit("delivery", **fields)


_KINDS: dict[type[Outcome], str] = {
    Delivered: "delivered",
    HandedOff: "handed_off",
    Deferred: "deferred",
    Failed: "failed",
    Unknown: "unknown",
}


def describe(outcome: Outcome) -> str:
    """The reply or reason of an outcome, as text."""
    match outcome:
        case Delivered(_, reply) | Failed(reply, _) | Deferred(_, reply, _):
            return str(reply)
        case Unknown(_, reason):
            return reason
        case HandedOff(holder, _):
            return f"kept by {holder}"
        case _:
            assert_never(outcome)


def _between_ms(from_s: float, to_s: float) -> float | None:
    return round((to_s - from_s) * 1000, 2) if from_s and to_s else None
