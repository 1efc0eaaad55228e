"""jobs: paused, with priorities and needs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BEFORE = "status IN ('queued', 'running', 'cancelling')"
_AFTER = "status IN ('queued', 'running', 'pausing', 'paused', 'cancelling')"


def _index(condition: str) -> None:
    op.drop_index("ix_jobs_unfinished", table_name="jobs")
    where = sa.text(condition)
    op.create_index("ix_jobs_unfinished", "jobs", ["status"], sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("needs_gpu", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("needs_bytes", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("made_from", sa.String(length=40), nullable=True))
        batch_op.drop_column("cancel_requested")  # the status says it
    with op.batch_alter_table("workers", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("is_draining", sa.Boolean(), server_default=sa.false(), nullable=False))
    _index(_AFTER)


def downgrade() -> None:
    # What the older version does not know waits again, or is stopped as a cancelled job was.
    op.execute("UPDATE jobs SET status = 'queued' WHERE status = 'paused'")
    op.execute("UPDATE jobs SET status = 'running' WHERE status = 'pausing'")
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
        for name in ("made_from", "needs_bytes", "needs_gpu", "priority"):
            batch_op.drop_column(name)
    with op.batch_alter_table("workers", schema=None, recreate="never") as batch_op:
        batch_op.drop_column("is_draining")
    op.execute("UPDATE jobs SET cancel_requested = true WHERE status = 'cancelling'")
    _index(_BEFORE)
