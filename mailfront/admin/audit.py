"""Who changed what, for changes that are not changes of queue rows: one row in the database and one event.

Queue verbs write their row in the transaction that changes the rows (`queue.operations`).
"""

from mailfront.base.printable import printable
from mailfront.observe import log
from mailfront.store.audit_rows import AuditRow, add_audit
from mailfront.store.writer import Store


class Audit:
    """Notes changes before they are made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def note(self, *, uid: int, verb: str, selector: str, reason: str, rows_count: int) -> None:
        """Keep it durably, then tell the log. Raises StoreFailed; then the change must not be made."""
        selector, reason = printable(selector, 300), printable(reason, 500)
        row = AuditRow(
            at_s=self._store.clock.wall_s(),
            uid=uid,
            verb=verb,
            selector=selector,
            reason=reason,
            rows_count=rows_count,
        )
        await self._store.write(lambda connection: add_audit(connection, row))
        log.emit("admin_action", verb=verb, selector=selector, reason=reason, uid=uid, rows_count=rows_count)
