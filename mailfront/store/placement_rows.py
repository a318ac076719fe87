"""Rows of placement: who owns a bucket, which mailboxes are pinned, what state the nodes were last in.

Functions of an open connection: give them to `Store.write` or `Store.read`. Nothing here decides; `cluster` does.
The map's version goes up by one with every change of owners or pins, in the same transaction.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from mailfront.mail.names import MailboxKey, NodeId
from mailfront.store import schema
from mailfront.store.engine import insert_or_replace

_VERSION = "map_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """One mailbox's remembered first placement. `node` None: wherever its bucket is. `source` says who pinned it."""

    mailbox_key: MailboxKey
    node: NodeId | None
    source: str
    made_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStateRow:
    """The last known state of a node for one protocol; `protocol` "admin" holds the administrator's word."""

    node: NodeId
    protocol: str
    state: str
    reason: str
    since_s: float


def load_map_version(connection: Connection) -> int:
    """The version of the stored map; 0 before the first assignment."""
    query = select(schema.counter.c.value).where(schema.counter.c.name == _VERSION)
    return int(connection.execute(query).scalar() or 0)


def load_owners(connection: Connection) -> dict[int, NodeId]:
    """Bucket number -> owning node, for every stored bucket; empty before the first assignment."""
    query = select(schema.bucket.c.number, schema.bucket.c.node)
    return {int(number): NodeId(node) for number, node in connection.execute(query)}


def save_owners(connection: Connection, owners: Mapping[int, NodeId]) -> int:
    """Store these buckets' owners; other buckets keep theirs. Returns the new map version."""
    rows = [{"number": number, "node": str(node)} for number, node in owners.items()]
    insert_or_replace(connection, schema.bucket, rows)
    return _next_version(connection)


def load_pins(connection: Connection) -> dict[MailboxKey, PinRow]:
    """All pins by mailbox key."""
    table = schema.pin.c
    return {
        MailboxKey(row.mailbox_key): PinRow(
            mailbox_key=MailboxKey(row.mailbox_key),
            node=None if row.node is None else NodeId(row.node),
            source=row.source,
            made_s=row.made_s,
        )
        for row in connection.execute(select(table.mailbox_key, table.node, table.source, table.made_s))
    }


def save_pins(connection: Connection, pins: Iterable[PinRow]) -> int:
    """Store pins, over older ones of the same mailboxes. Returns the new map version."""
    rows = [
        {
            "mailbox_key": str(row.mailbox_key),
            "node": None if row.node is None else str(row.node),
            "source": row.source,
            "made_s": row.made_s,
        }
        for row in pins
    ]
    insert_or_replace(connection, schema.pin, rows)
    return _next_version(connection)


def save_first_pin(connection: Connection, row: PinRow) -> PinRow:
    """Store a mailbox's first placement unless it has one. Returns the pin that holds."""
    table = schema.pin.c
    query = select(table.node, table.source, table.made_s).where(table.mailbox_key == str(row.mailbox_key))
    found = connection.execute(query).first()
    if found is None:
        save_pins(connection, [row])
        return row
    node = None if found.node is None else NodeId(found.node)
    return PinRow(mailbox_key=row.mailbox_key, node=node, source=found.source, made_s=found.made_s)


def delete_pins(connection: Connection, keys: Iterable[MailboxKey]) -> int:
    """Forget pins. Returns the new map version."""
    for key in keys:
        connection.execute(delete(schema.pin).where(schema.pin.c.mailbox_key == str(key)))
    return _next_version(connection)


def load_node_states(connection: Connection) -> list[NodeStateRow]:
    """Every stored node state, per node and protocol."""
    table = schema.node_state.c
    query = select(table.node, table.protocol, table.state, table.reason, table.since_s)
    return [
        NodeStateRow(
            node=NodeId(row.node), protocol=row.protocol, state=row.state, reason=row.reason, since_s=row.since_s
        )
        for row in connection.execute(query.order_by(table.node, table.protocol))
    ]


def save_node_states(connection: Connection, states: Iterable[NodeStateRow]) -> None:
    """Store node states, over older ones of the same node and protocol."""
    rows = [
        {
            "node": str(row.node),
            "protocol": row.protocol,
            "state": row.state,
            "reason": row.reason,
            "since_s": row.since_s,
        }
        for row in states
    ]
    insert_or_replace(connection, schema.node_state, rows)


def delete_node_states(connection: Connection, node: NodeId) -> None:
    """Forget a node that the configuration no longer names."""
    connection.execute(delete(schema.node_state).where(schema.node_state.c.node == str(node)))


def _next_version(connection: Connection) -> int:
    version = load_map_version(connection) + 1
    insert_or_replace(connection, schema.counter, [{"name": _VERSION, "value": version}])
    return version
