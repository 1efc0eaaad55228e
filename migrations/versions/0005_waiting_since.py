"""when a job came into the queue, by the database's clock"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("waiting_since", sa.Float(precision=53), nullable=True))
    # What waits already is given its whole time anew.
    op.execute(f"UPDATE jobs SET waiting_since = {_NOW[op.get_bind().dialect.name]} WHERE status = 'queued'")


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.drop_column("waiting_since")
