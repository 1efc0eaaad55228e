"""data sets by URL"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    # Never by making the table anew: on SQLite dropping the old one would take along the jobs that refer to it.
    with op.batch_alter_table("datasets", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("url", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("fetch", _JSON, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datasets", schema=None, recreate="never") as batch_op:
        batch_op.drop_column("fetch")
        batch_op.drop_column("url")
