"""An index of the few rows whose outcome at a node is unknown."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create it."""
    is_unknown = sa.text("state = 'unknown'")
    op.create_index(
        "recipient_unknown",
        "recipient",
        ["node", "next_attempt_s"],
        unique=False,
        sqlite_where=is_unknown,
        postgresql_where=is_unknown,
    )
