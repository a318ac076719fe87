"""Whether a message's sender was proven by SPF or DMARC: who may be told what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; NULL: nobody looked. A plain ADD COLUMN: rows are not rewritten."""
    op.add_column("message", sa.Column("sender_proven", sa.Boolean(), nullable=True))
