"""The `queue` verbs: what waits, what is wrong with it, and changes of it.

`QueueReader` only reads, so the command line uses it directly on the database when no server runs. `QueueService` is
the whole, in the keeper. A selection by ids that matches nothing is an error (no such message); by anything else it is
an answer (nothing matches).
"""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.queue_documents import RowView, show_message, show_row, show_stats
from mailfront.admin.queue_exchange import show_exported
from mailfront.admin.requests import (
    ChangeRequest,
    CheckRequest,
    ExportRequest,
    ListRequest,
    PieceRequest,
    RedirectRequest,
    Selection,
    ShowRequest,
)
from mailfront.admin.wire import Progress
from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId, is_message_id
from mailfront.base.printable import printable
from mailfront.mail.address import Address, parse_path
from mailfront.mail.names import NodeId
from mailfront.observe import log
from mailfront.queue.check import CheckResult
from mailfront.queue.exports import QueueExport
from mailfront.queue.operations import Changed, Order, QueueOperations, Verb, order_text, selector_text
from mailfront.queue.rows import SHOWN_STATES
from mailfront.queue.views import QueueViews
from mailfront.store.errors import CorruptBody
from mailfront.store.queue_queries import FIRST_KEY, Selector

MOST_SHOWN_BYTES = 1024 * 1024
MOST_TRACED_ROWS = 200
_HEADER_ENDS = (b"\r\n\r\n", b"\n\n")
_EVENTS = {
    Verb.RETRY: "queue_retried",
    Verb.HOLD: "queue_held",
    Verb.RELEASE: "queue_released",
    Verb.BOUNCE: "queue_bounced",
    Verb.DELETE: "queue_deleted",
    Verb.REDIRECT: "queue_redirected",
}


def _no_bar(_progress: Progress) -> None:
    """Nobody watches."""


class QueueReader:
    """What can be read without a server."""

    def __init__(self, views: QueueViews, export: QueueExport, clock: Clock) -> None:
        self._views = views
        self._export = export
        self._clock = clock

    async def list(self, request: ListRequest) -> dict[str, Any]:
        """One page: `rows`, and `next`: the `after` of the following page, or None."""
        page = await self._views.list_rows(_selector(request), limit=request.limit, after=request.after)
        now_s = self._clock.wall_s()
        return {"rows": [show_row(row, now_s) for row in page.rows], "next": page.after}

    async def show(self, request: ShowRequest) -> dict[str, Any]:
        """One message with its recipients, and its text if that is asked for.

        Raises AdminError if it is neither queued nor handed off, or its stored body is damaged.
        """
        found = await self.find(request.id)
        if found is None:
            raise _no_such_message(request.id)
        if request.part is not None:
            if "size_bytes" not in found:
                raise AdminError(f"{request.id} is handed off: its text is at the node that holds it")
            found["content"] = await self._content(MessageId(request.id), request.part, found["size_bytes"])
        return found

    async def find(self, message_id: str) -> dict[str, Any] | None:
        """The same; None if it is not there."""
        if not is_message_id(message_id):
            return None
        view = await self._views.show(MessageId(message_id))
        return None if view is None else show_message(MessageId(message_id), view, self._clock.wall_s())

    async def rows_of(self, address: str) -> tuple[RowView, ...]:
        """The first rows of which an address is the recipient or the sender."""
        now_s = self._clock.wall_s()
        selectors = (Selector(recipients=(address,)), Selector(senders=(address,)))
        pages = [await self._views.list_rows(selector, limit=MOST_TRACED_ROWS) for selector in selectors]
        rows = {(row.id, row.number): row for page in pages for row in page.rows}
        return tuple(show_row(row, now_s) for row in rows.values())

    async def stats(self) -> dict[str, Any]:
        """Counts: `total`, one per state, and ages against domains and against nodes."""
        return show_stats(await self._views.stats(), self._clock.wall_s())

    async def check(self, request: CheckRequest, *, progress: Callable[[Progress], None] = _no_bar) -> CheckResult:
        """What is wrong with the stored queue."""
        return await self._export.check(
            with_bodies=request.bodies,
            step=lambda so_far: progress(Progress(so_far.messages_count + so_far.pieces_count, 0, "messages")),
        )

    async def export(self, request: ExportRequest) -> dict[str, Any]:
        """One page of messages without their bodies. The first page also counts what is to come."""
        selector = _chosen(request, everything=request.everything)
        page = await self._export.page(selector, request.after)
        first = tuple(request.after) == FIRST_KEY
        return {
            "messages": [show_exported(each) for each in page.messages],
            "damaged": [*page.damaged, *(line for each in page.messages for line in each.damaged)],
            "rows_count": page.rows_count,
            "handed_off_count": page.handed_off_count,
            "next": page.after,
            "total": await self._views.count_rows(selector) if first else 0,
        }

    async def piece(self, request: PieceRequest) -> str | None:
        """One piece of a stored body in base64; None after the last, or if the message is gone."""
        if not is_message_id(request.id):
            raise _no_such_message(request.id)
        data = await self._piece(MessageId(request.id), request.number)
        return None if data is None else base64.b64encode(data).decode()

    async def _piece(self, message_id: MessageId, number: int) -> bytes | None:
        try:
            return await self._export.piece(message_id, number)
        except CorruptBody as error:
            raise AdminError(str(error)) from error

    async def _content(self, message_id: MessageId, part: str, size_bytes: int) -> dict[str, Any]:
        """The beginning of the stored message, or its header."""
        text, number = bytearray(), 0
        while len(text) < MOST_SHOWN_BYTES and (piece := await self._piece(message_id, number)):
            text += piece
            number += 1
            if part == "headers" and any(end in text for end in _HEADER_ENDS):
                break
        ends = [found for end in _HEADER_ENDS if (found := text.find(end)) >= 0] if part == "headers" else []
        end = min(ends, default=MOST_SHOWN_BYTES)
        cut = not ends and size_bytes > MOST_SHOWN_BYTES
        shown = bytes(text[: min(end, MOST_SHOWN_BYTES)])
        return {"part": part, "text": shown.decode("utf-8", "replace"), "size_bytes": size_bytes, "cut": cut}


CheckTarget = Callable[[Address], Awaitable[None]]
"""Whether mail can be redirected to an address. Raises AdminError that says why it cannot."""


class QueueService(QueueReader):
    """All queue verbs but import."""

    def __init__(
        self,
        views: QueueViews,
        export: QueueExport,
        operations: QueueOperations,
        clock: Clock,
        *,
        audit: Audit,
        check_target: CheckTarget,
    ) -> None:
        super().__init__(views, export, clock)
        self._operations = operations
        self._audit = audit
        self._check_target = check_target

    async def look(self, request: ShowRequest, *, uid: int) -> dict[str, Any]:
        """`show`, with a note of who read other people's mail."""
        shown = await self.show(request)
        if request.part is not None:
            verb, chosen = f"queue show --{request.part}", f"--id {request.id}"
            await self._audit.note(uid=uid, verb=verb, selector=chosen, reason="", rows_count=1)
        return shown

    async def give(self, request: ExportRequest, *, uid: int) -> dict[str, Any]:
        """`export`, with a note of who took what."""
        page = await self.export(request)
        if tuple(request.after) == FIRST_KEY:
            chosen = selector_text(_selector(request))
            count = page["total"] or page["rows_count"]
            await self._audit.note(
                uid=uid, verb="queue export", selector=chosen, reason=request.reason, rows_count=count
            )
        return page

    async def change(
        self, verb: Verb, request: ChangeRequest, *, uid: int, progress: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """Carry out a verb on all rows that match. Raises AdminError without a selector, or for unknown ids."""
        selector = _chosen(request, everything=request.everything)
        to = await self._target(request) if isinstance(request, RedirectRequest) else ""
        order = Order(verb=verb, selector=selector, uid=uid, reason=request.reason, dry_run=request.dry_run, to=to)
        changed_count = 0

        def changed(rows: Changed) -> None:
            nonlocal changed_count
            changed_count += len(rows)
            _tell(order, rows)

        try:
            result = await self._operations.run(
                order, lambda so_far, total: progress(Progress(so_far.matched_count, total, "recipients")), changed
            )
        finally:
            if changed_count:  # pages that are done stay done, whatever has ended the rest
                _tell_all(order, changed_count)
        if result.matched_count == 0 and selector.ids:
            raise _no_such_message(", ".join(selector.ids[:5]))
        if not request.dry_run and not changed_count:
            _tell_all(order, 0)
        return {
            "verb": verb.value,
            "dry_run": request.dry_run,
            "matched": result.matched_count,
            "changed": result.changed_count,
            "skipped": result.skipped_count,
            "changed_rows": [{"id": id_, "recipient": recipient} for id_, recipient in result.changed],
            "skipped_rows": [{"id": id_, "recipient": who, "reason": why} for id_, who, why in result.skipped],
        }

    async def _target(self, request: RedirectRequest) -> str:
        address = parse_path(request.to.removeprefix("<").removesuffix(">"))
        if address is None:
            raise AdminError(f"{printable(request.to, 100)!r} is not a mail address", Kind.USAGE)
        await self._check_target(address)
        return str(address)


def _chosen(request: Selection, *, everything: bool) -> Selector:
    """The selector, if it is one, or everything, if that was said."""
    selector = _selector(request)
    if selector.is_empty and not everything:
        raise AdminError(
            "say which: --id, --sender, --recipient, --node, --state, --older, or --everything", Kind.USAGE
        )
    if everything and not selector.is_empty:
        raise AdminError("--everything and a selector contradict each other", Kind.USAGE)
    return selector


def _no_such_message(message_id: str) -> AdminError:
    return AdminError(f"no message {printable(message_id, 120)} is queued or handed off")


def _selector(request: Selection) -> Selector:
    for state in request.states:
        if state not in SHOWN_STATES:
            raise AdminError(f"{printable(state, 40)!r} is not a state; use {', '.join(SHOWN_STATES)}", Kind.USAGE)
    for id_ in request.ids:
        if not is_message_id(id_):
            raise _no_such_message(id_)
    return Selector(
        ids=tuple(MessageId(id_) for id_ in request.ids),
        senders=request.senders,
        recipients=request.recipients,
        states=request.states,
        nodes=tuple(NodeId(node) for node in request.nodes),
        older_s=request.older_s,
    )


def _tell(order: Order, rows: Changed) -> None:
    """One event for each row: the trace of a message ends with who did what to it."""
    by, reason = f"uid {order.uid}", printable(order.reason, 500)
    more = {"to": printable(order.to)} if order.to else {}
    for id_, recipient in rows:
        log.emit(_EVENTS[order.verb], id=id_, recipient=printable(recipient), by=by, reason=reason, **more)


def _tell_all(order: Order, changed_count: int) -> None:
    log.emit(
        "admin_action",
        verb=f"queue {order.verb.value}",
        selector=order_text(order),
        reason=printable(order.reason, 500),
        uid=order.uid,
        rows_count=changed_count,
    )
