"""A MariaDB for each process that runs tests, and a database of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from tests.asterisk.lab import mariadb

_numbers = count(1)


@dataclass(frozen=True)
class Fresh:
    """An empty database, and a user who may do there what crmbridge needs."""

    server: mariadb.Database
    name: str
    user: str
    password: str = "geh:e@im/1"

    @property
    def url(self) -> str:
        """As store.url has it."""
        return f"mysql+asyncmy://{self.user}:geh%3Ae%40im%2F1@{self.server.host}:{self.server.port}/{self.name}"

    def sql(self, statements: str) -> str:
        """What MariaDB's own client prints for them, as root."""
        return self.server.run(f"USE `{self.name}`; {statements}")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[mariadb.Database]:
    """A server."""
    with mariadb.running() as server:
        yield server


@pytest.fixture
def fresh(mariadb_server: mariadb.Database) -> Iterator[Fresh]:
    """An empty database on it."""
    number = next(_numbers)
    made = Fresh(mariadb_server, f"calls_{number}", f"bridge{number}")
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE VIEW"
    mariadb_server.run(
        f"CREATE DATABASE `{made.name}`; CREATE USER '{made.user}'@'127.0.0.1' IDENTIFIED BY '{made.password}'; "
        f"GRANT {rights} ON `{made.name}`.* TO '{made.user}'@'127.0.0.1'"
    )
    yield made
    mariadb_server.run(f"DROP DATABASE `{made.name}`; DROP USER '{made.user}'@'127.0.0.1'")
