"""Rows that say who changed what: one per administrator's verb. Functions of an open connection."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from mailfront.store.schema import audit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One verb: when, by whom (the caller's uid), on what, why, and how many rows it changed."""

    at_s: float
    uid: int
    verb: str
    selector: str
    reason: str
    rows_count: int = 0


def add_audit(connection: Connection, row: AuditRow) -> int:
    """Write it down before the verb changes anything. Returns the row's number."""
    values = {
        "at_s": row.at_s,
        "uid": row.uid,
        "verb": row.verb,
        "selector": row.selector,
        "reason": row.reason,
        "rows_count": row.rows_count,
    }
    key = connection.execute(insert(audit).values(values)).inserted_primary_key
    if key is None:
        raise LookupError("the audit row has no number")
    return int(key[0])


def set_audit_count(connection: Connection, number: int, rows_count: int) -> None:
    """Note how many rows the verb has changed so far."""
    connection.execute(update(audit).where(audit.c.number == number).values(rows_count=rows_count))


def raise_audit_count(connection: Connection, number: int, more_count: int) -> None:
    """Note that a verb of several calls has changed more rows."""
    counted = update(audit).where(audit.c.number == number).values(rows_count=audit.c.rows_count + more_count)
    connection.execute(counted)


def latest_audits(connection: Connection, limit: int) -> list[AuditRow]:
    """The newest rows first."""
    query = select(audit).order_by(audit.c.number.desc()).limit(limit)
    return [
        AuditRow(
            at_s=row.at_s,
            uid=row.uid,
            verb=row.verb,
            selector=row.selector,
            reason=row.reason,
            rows_count=row.rows_count,
        )
        for row in connection.execute(query)
    ]
