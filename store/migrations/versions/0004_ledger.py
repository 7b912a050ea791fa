"""Seals of decisions, who served when, the outbox, and what is served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.add_column("decision", sa.Column("seal", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "tenure",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("experiment", sa.String(), nullable=False),
        sa.Column("decision", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_tenure_model"), "tenure", ["model"])
    op.create_table(
        "outbox",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("experiment", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("fate", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_s", sa.Float(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index(op.f("ix_outbox_experiment"), "outbox", ["experiment"])
    op.create_index(op.f("ix_outbox_fate"), "outbox", ["fate"])
    op.create_table(
        "catalog",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("catalog")
    op.drop_index(op.f("ix_outbox_fate"), table_name="outbox")
    op.drop_index(op.f("ix_outbox_experiment"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(op.f("ix_tenure_model"), table_name="tenure")
    op.drop_table("tenure")
    op.drop_column("decision", "seal")
