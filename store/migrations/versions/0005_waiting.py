"""Requests that wait for their labels."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "waiting",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.BigInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("closes_s", sa.Float(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_waiting_closes", "waiting", ["experiment_id", "closes_s"])
    op.create_index("ix_waiting_lane", "waiting", ["experiment_id", "lane", "first_sequence"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_waiting_lane", table_name="waiting")
    op.drop_index("ix_waiting_closes", table_name="waiting")
    op.drop_table("waiting")
