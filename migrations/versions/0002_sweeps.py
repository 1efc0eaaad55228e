"""sweeps"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("base", _JSON, nullable=False),
        sa.Column("axes", _JSON, nullable=False),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("idempotency_digest", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_sweeps_idempotency_key")),
    )
    # Not by making the table anew, as a constraint in batch mode would: on SQLite dropping the old one deletes its
    # rows, and their events, attempts and artifacts with them. Both engines take this sentence as it is.
    op.execute(
        "ALTER TABLE jobs ADD COLUMN sweep_id VARCHAR(40) CONSTRAINT fk_jobs_sweep_id_sweeps REFERENCES sweeps (id)"
    )
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("point", _JSON, nullable=True))
        batch_op.create_index(batch_op.f("ix_jobs_sweep_id"), ["sweep_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None, recreate="never") as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_sweep_id"))
        batch_op.drop_column("point")
        batch_op.drop_column("sweep_id")

    op.drop_table("sweeps")
