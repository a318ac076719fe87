"""The first tables: messages, recipients, handoffs, placement, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rows_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("audit_time", "audit", ["at_s"], unique=False)
    op.create_table(
        "bucket",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "handoff",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("mailbox_key", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("node_user", sa.Text(), nullable=False),
        sa.Column("notify", sa.Text(), nullable=True),
        sa.Column("orcpt", sa.Text(), nullable=True),
        sa.Column("reverse_path", sa.Text(), nullable=True),
        sa.Column("arrived_s", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("changed_s", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_s", sa.Double(), nullable=False),
        sa.Column("last_reply", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", "holder", "number"),
    )
    op.create_index("handoff_changed", "handoff", ["state", "changed_s"], unique=False)
    op.create_index("handoff_place", "handoff", ["state", "holder", "home", "next_attempt_s"], unique=False)
    op.create_table(
        "message",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reverse_path", sa.Text(), nullable=True),
        sa.Column("sender_domain", sa.Text(), nullable=False),
        sa.Column("sender_local", sa.Text(), nullable=False),
        sa.Column("arrived_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.Column("changed_s", sa.Double(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("body_type", sa.Text(), nullable=False),
        sa.Column("smtputf8", sa.Boolean(), nullable=False),
        sa.Column("ret", sa.Text(), nullable=True),
        sa.Column("envid", sa.Text(), nullable=True),
        sa.Column("client_ip", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("message_changed", "message", ["state", "changed_s"], unique=False)
    op.create_index("message_expiry", "message", ["state", "expires_s", "arrived_s", "size_bytes"], unique=False)
    op.create_index("message_sender", "message", ["sender_domain", "sender_local", "id"], unique=False)
    op.create_table(
        "node_state",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("node", "protocol"),
    )
    op.create_table(
        "pin",
        sa.Column("mailbox_key", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("made_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("mailbox_key"),
    )
    op.create_table(
        "body_chunk",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message_id", "number"),
    )
    op.create_table(
        "recipient",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("local_key", sa.Text(), nullable=False),
        sa.Column("mailbox_key", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("node_user", sa.Text(), nullable=False),
        sa.Column("notify", sa.Text(), nullable=True),
        sa.Column("orcpt", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("arrived_s", sa.Double(), nullable=False),
        sa.Column("next_attempt_s", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tried_s", sa.Double(), nullable=False),
        sa.Column("blame", sa.Text(), nullable=False),
        sa.Column("last_reply", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message_id", "number"),
    )
    op.create_index("recipient_address", "recipient", ["domain", "local_key", "message_id", "number"], unique=False)
    op.create_index(
        "recipient_due", "recipient", ["state", "bucket", "next_attempt_s", "arrived_s", "mailbox_key"], unique=False
    )
    op.create_index("recipient_shape", "recipient", ["state", "domain", "arrived_s"], unique=False)
    op.create_index("recipient_state", "recipient", ["state", "message_id", "number"], unique=False)
