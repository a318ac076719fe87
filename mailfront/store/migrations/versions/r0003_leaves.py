"""What a recipient is that the client did not name: by whose forward or list, and whether its sender was warned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns. A plain ADD COLUMN each: rows are not rewritten."""
    op.add_column("recipient", sa.Column("via", sa.Text(), nullable=False, server_default=""))
    op.add_column("recipient", sa.Column("list_owner", sa.Text(), nullable=True))
    op.add_column("recipient", sa.Column("warned", sa.Boolean(), nullable=False, server_default=sa.false()))
