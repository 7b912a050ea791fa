"""Evidence is compressed from now on; rows that are there stay as they are, since hashes are over their letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("evidence", sa.Column("packed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Undo; what was compressed since becomes text again."""
    import zlib

    evidence = sa.table(
        "evidence",
        *(sa.column(name) for name in ("experiment_id", "spec_version", "last", "body", "packed")),
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(evidence).where(evidence.c.packed.is_not(None))).all()
    for row in rows:
        key = (
            (evidence.c.experiment_id == row.experiment_id)
            & (evidence.c.spec_version == row.spec_version)
            & (evidence.c.last == row.last)
        )
        connection.execute(
            sa.update(evidence).where(key).values(body=zlib.decompress(bytes(row.packed)).decode())
        )
    op.drop_column("evidence", "packed")
