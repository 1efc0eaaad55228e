"""teachers: classes and preprocessing"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("teachers", schema=None, recreate="never") as batch_op:
        batch_op.add_column(sa.Column("classes", _JSON, nullable=True))
        batch_op.add_column(sa.Column("preprocessing", _JSON, server_default="{}", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("teachers", schema=None, recreate="never") as batch_op:
        batch_op.drop_column("preprocessing")
        batch_op.drop_column("classes")
