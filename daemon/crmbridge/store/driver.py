"""asyncmy's connection, so that no transaction that a Galera node has undone is taken for one that stands.

Such a node undoes a transaction when another node's was first, and says so (1213) to what is asked next. That is lost
in two places, and what follows is then done as a transaction of its own, without what came before:

- asyncmy prepares a statement before its first use and, refused, sends it as text;
- many rows at once in binary (COM_STMT_BULK_EXECUTE) are told to be stored (MariaDB 10.11.19).

It must not know what is done on it.
"""

from __future__ import annotations

from typing import Any

from asyncmy.connection import Connection as AsyncmyConnection
from asyncmy.errors import Error

_UNDONE = 1213  # ER_LOCK_DEADLOCK


class Connection(AsyncmyConnection):
    """Use `connected`."""

    _undone: Error | None = None

    async def prepare(self, query: str | bytes) -> Any:  # noqa: ANN401  # asyncmy's statement
        """Note that the transaction is gone: asyncmy passes over the error."""
        try:
            return await super().prepare(query)  # type: ignore[no-untyped-call]
        except Error as error:
            if error.args and error.args[0] == _UNDONE:
                self._undone = error
            raise

    def without_bulk(self) -> None:
        """Send many rows as text."""
        self._bulk_supported = False

    async def _acquire_cached_statement(self, query: str, nargs: int) -> Any:  # noqa: ANN401  # as above
        found = await super()._acquire_cached_statement(query, nargs)  # type: ignore[misc]
        undone, self._undone = self._undone, None
        if undone is not None:
            raise undone
        return found


async def connected(**how: Any) -> Connection:  # noqa: ANN401  # asyncmy's arguments
    """What `asyncmy.connect` gives."""
    connection = Connection(**how)  # type: ignore[no-untyped-call]
    await connection.connect()
    try:
        if await _is_node_of_a_cluster(connection):
            connection.without_bulk()
    except BaseException:
        connection.close()
        raise
    return connection


async def _is_node_of_a_cluster(connection: Connection) -> bool:
    async with connection.cursor() as cursor:
        await cursor.execute("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")
        found = await cursor.fetchone()
    return found is not None and found[1] == "ON"
