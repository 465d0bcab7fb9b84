"""The outbox's tables. It must not know what is done with them: outbox_sql.py does."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text

from crmbridge.calls.events import Kind, State
from crmbridge.store.schema import Schema, Utc

tables = MetaData()

callbacks = Table(
    "callbacks",
    tables,
    Column("id", Integer, primary_key=True),
    Column("pbx", Text, nullable=False),
    Column("call", Text, nullable=False),
    Column("extension", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("number", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("linkedid", Text, nullable=False),
    Column("uniqueid", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_attempt_at", Utc),
    Column("requeued_at", Utc),
    Column("dropped_at", Utc),
    Index("callbacks_key", "pbx", "call", "extension", "kind", unique=True),
    # AUTOINCREMENT: a number that an administrator has noted never comes to mean another callback.
    sqlite_autoincrement=True,
)
Index("callbacks_state", callbacks.c.state, callbacks.c.at)
Index("callbacks_linkedid", callbacks.c.linkedid)

tries = Table(
    "attempts",
    tables,
    Column("id", Integer, primary_key=True),
    Column("callback_id", ForeignKey("callbacks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Utc, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("status", Integer),
    Column("outcome", Text, nullable=False),
)

interventions = Table(
    "interventions",
    tables,
    Column("id", Integer, primary_key=True),
    Column("at", Utc, nullable=False),
    Column("callback_id", Integer, nullable=False),
    Column("what", Text, nullable=False),
    sqlite_autoincrement=True,
)

SCHEMA = Schema(
    "outbox",
    tables,
    values={"callbacks.kind": [kind.value for kind in Kind], "callbacks.state": [state.value for state in State]},
)
