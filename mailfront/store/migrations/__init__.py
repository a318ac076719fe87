"""Database revisions, forward only. `HEAD` names the newest; a start with that revision needs no Alembic."""

HEAD = "0006"
