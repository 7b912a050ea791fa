"""The volume of requests over SQL."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from anabranch.store.tables import VOLUME
from anabranch.store.volume_port import Volume


class SqlVolumes:
    """`volume_port.VolumeStore` over a database.

    Args:
        engine: The database.
        reads: The same, for transactions that only read.
    """

    def __init__(self, engine: Engine, reads: Engine) -> None:
        self._engine = engine
        self._reads = reads

    def add(self, volumes: Collection[Volume]) -> None:
        """See `volume_port.VolumeStore.add`."""
        if not volumes:
            return
        # In one order everywhere: servers that add the same rows at once wait for each other, and never in a ring.
        rows = [
            {
                "model": each.model,
                "level": each.level,
                "slot_s": each.slot_s,
                "requests": each.requests,
                "within": each.within,
            }
            for each in sorted(volumes, key=lambda each: (each.model, each.level, each.slot_s))
        ]
        with self._engine.begin() as connection:
            build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            statement = build(VOLUME)
            summed = {name: VOLUME.c[name] + statement.excluded[name] for name in ("requests", "within")}
            keys = [column.name for column in VOLUME.primary_key]
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=summed), rows)

    def load(self, since_s: float) -> list[Volume]:
        """See `volume_port.VolumeStore.load`."""
        wanted = (
            select(VOLUME)
            .where(VOLUME.c.slot_s >= since_s)
            .order_by(VOLUME.c.model, VOLUME.c.level, VOLUME.c.slot_s)
        )
        with self._reads.begin() as connection:
            return [
                Volume(
                    model=row.model,
                    level=row.level,
                    slot_s=row.slot_s,
                    requests=row.requests,
                    within=row.within,
                )
                for row in connection.execute(wanted)
            ]

    def forget(self, before_s: float) -> int:
        """See `volume_port.VolumeStore.forget`."""
        with self._engine.begin() as connection:
            return connection.execute(delete(VOLUME).where(VOLUME.c.slot_s < before_s)).rowcount
