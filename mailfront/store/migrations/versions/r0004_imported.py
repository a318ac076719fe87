"""Which recipients came in by an import: they are recognised when the same file is imported again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "imported",
        sa.Column("message_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("at_s", sa.Double(), nullable=False),
    )
    op.create_index("imported_time", "imported", ["at_s"])
