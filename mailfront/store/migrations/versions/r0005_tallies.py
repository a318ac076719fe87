"""What filters count across restarts: senders that were seen, and how much each has sent."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "tally",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
    )
    op.create_index("tally_expiry", "tally", ["expires_s"])
