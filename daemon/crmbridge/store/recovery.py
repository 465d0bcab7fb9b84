"""A new file in the place of a damaged one: the old one set aside, never deleted, and what can be read of it kept.

At the start and while running. It must not know what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import structlog
from sqlalchemy import Engine

from crmbridge.store import salvage
from crmbridge.store.engine import NEW, DamagedError, disk_trouble, explain, open_sqlite
from crmbridge.store.schema import Schema, StoreError

log = structlog.get_logger("crmbridge.store")

MOST_ASIDE = 10
"""Damaged files that may lie beside one: a disk that damages one after the other must not be filled by us."""


def begin_anew(engine: Engine, schemas: Sequence[Schema], error: DamagedError) -> None:
    """Set the engine's damaged file aside and begin a new one with what can be salvaged. Blocks. Raises StoreError.

    The new file is whole before the old one is touched; whoever is killed in between finds it when it starts again.
    """
    path = Path(str(engine.url.database))
    engine.dispose()
    _refuse_too_many(path)
    new = path.with_name(path.name + NEW)
    salvaged = _build(new, path, schemas)
    aside = set_aside(path)
    new.rename(path)
    log.error(
        "store.damaged_file_set_aside",
        file=str(path),
        set_aside=str(aside),
        reason=str(error),
        salvaged=salvaged,
        effect="a new file is begun; what could be read of the old one is in it",
        hint="look into the kernel's log (dmesg) for what damaged it; the file set aside is yours to keep or delete",
    )


def set_aside(path: Path) -> Path:
    """Give a SQLite file and its -wal and -shm another name, with the time; the new name. Raises StoreError."""
    aside = _free_name(path)
    try:
        # The file itself last: without it, SQLite deletes a write-ahead log that it finds.
        for suffix in ("-wal", "-shm", ""):
            one = path.with_name(path.name + suffix)
            if one.exists():
                one.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be set aside ({error.strerror}): move it away") from error
    return aside


def _refuse_too_many(path: Path) -> None:
    beside = sorted(path.parent.glob(f"{path.name}.damaged-*Z"))
    if len(beside) >= MOST_ASIDE:
        raise StoreError(
            f"{path} is damaged, and {len(beside)} damaged ones lie beside it already ({beside[0].name}, …): "
            "see the kernel's log (dmesg) for what is wrong with the disk, and move them away"
        )


def _build(new: Path, damaged: Path, schemas: Sequence[Schema]) -> dict[str, int]:
    """Make a new file with what can be read of a damaged one; how many rows of each table."""
    for suffix in ("-wal", "-shm", ""):  # of an attempt that was broken off
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    engine = open_sqlite(new, schemas)
    try:
        found = salvage.read(damaged, schemas)
        with engine.begin() as connection:
            return salvage.write(connection, found, schemas)
    except Exception as error:
        if disk_trouble(error):
            raise StoreError(f"{new} {explain(error)}") from error
        log.exception("store.not_salvaged", file=str(damaged))  # whatever is wrong with these rows, we go on without
        return {}
    finally:
        engine.dispose()


def _free_name(path: Path) -> Path:
    now = datetime.now(UTC)
    for number in count():
        aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%S}{f'.{number}' if number else ''}Z")
        if not aside.exists():
            return aside
    raise AssertionError  # count() has no end
