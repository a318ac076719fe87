"""The tables. Statements elsewhere in this package are built from these; `migrations/` creates them.

Times are seconds since 1970 (UTC) in the `_s` columns. Texts are short and already printable; ids, keys and node
names are the vocabulary of `mailfront.mail.names` and `mailfront.base.ids`.

The indexes carry promises: `recipient_due` makes a claim cost the same with ten rows and with a million (state, then
bucket, then time; the mailbox key for pins), `recipient_unknown` does so for rows that are bound to a node (it holds
only those), `recipient_shape` and `message_expiry` answer `stats` without touching
the tables, `recipient_state` and `recipient_address` turn pages. Only types that PostgreSQL has too.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

IS_UNKNOWN = text("state = 'unknown'")
"""A constant and not a parameter: only then is the index of those rows used."""

message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reverse_path", Text),
    Column("sender_domain", Text, nullable=False),
    Column("sender_local", Text, nullable=False),
    Column("arrived_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("changed_s", Double, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("body_type", Text, nullable=False),
    Column("smtputf8", Boolean, nullable=False),
    Column("ret", Text),
    Column("envid", Text),
    Column("client_ip", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("sender_proven", Boolean),
    Index("message_sender", "sender_domain", "sender_local", "id"),
    Index("message_expiry", "state", "expires_s", "arrived_s", "size_bytes"),
    Index("message_changed", "state", "changed_s"),
)

body_chunk = Table(
    "body_chunk",
    metadata,
    Column("message_id", Text, ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("crc32", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

recipient = Table(
    "recipient",
    metadata,
    Column("message_id", Text, ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("address", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("local_key", Text, nullable=False),
    Column("mailbox_key", Text, nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("node_user", Text, nullable=False),
    Column("notify", Text),
    Column("orcpt", Text),
    Column("state", Text, nullable=False),
    Column("arrived_s", Double, nullable=False),
    Column("next_attempt_s", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("tried_s", Double, nullable=False),
    Column("blame", Text, nullable=False),
    Column("last_reply", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("node", Text),
    Column("lease_owner", Text),
    Column("lease_until_s", Double),
    Column("via", Text, nullable=False, server_default=""),
    Column("list_owner", Text),
    Column("warned", Boolean, nullable=False, server_default=false()),
    Index("recipient_due", "state", "bucket", "next_attempt_s", "arrived_s", "mailbox_key"),
    Index("recipient_shape", "state", "domain", "arrived_s"),
    Index("recipient_state", "state", "message_id", "number"),
    Index("recipient_address", "domain", "local_key", "message_id", "number"),
    Index("recipient_unknown", "node", "next_attempt_s", sqlite_where=IS_UNKNOWN, postgresql_where=IS_UNKNOWN),
)

handoff = Table(
    "handoff",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("holder", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("home", Text, nullable=False),
    Column("mailbox_key", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("node_user", Text, nullable=False),
    Column("notify", Text),
    Column("orcpt", Text),
    Column("reverse_path", Text),
    Column("arrived_s", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("changed_s", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_s", Double, nullable=False),
    Column("last_reply", Text, nullable=False),
    Column("node", Text),
    Column("lease_owner", Text),
    Column("lease_until_s", Double),
    Index("handoff_place", "state", "holder", "home", "next_attempt_s"),
    Index("handoff_changed", "state", "changed_s"),
)

imported = Table(
    "imported",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at_s", Double, nullable=False),
    Index("imported_time", "at_s"),
)

bucket = Table(
    "bucket",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("node", Text, nullable=False),
)

pin = Table(
    "pin",
    metadata,
    Column("mailbox_key", Text, primary_key=True),
    Column("node", Text),
    Column("source", Text, nullable=False),
    Column("made_s", Double, nullable=False),
)

node_state = Table(
    "node_state",
    metadata,
    Column("node", Text, primary_key=True),
    Column("protocol", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_s", Double, nullable=False),
)

counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

tally = Table(
    "tally",
    metadata,
    Column("key", Text, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("expires_s", Double, nullable=False),
    Index("tally_expiry", "expires_s"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("uid", Integer, nullable=False),
    Column("verb", Text, nullable=False),
    Column("selector", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rows_count", BigInteger, nullable=False),
    Index("audit_time", "at_s"),
)
