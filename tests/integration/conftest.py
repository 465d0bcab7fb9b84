"""What tests stand between: a PBX and a CRM that are played, a MariaDB for each process, a database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count

import pytest
from tests.asterisk.lab import mariadb

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped

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


@cache
def click_trace() -> Trace:
    """A recorded click to call."""
    (found,) = [one for one in shipped() if one.name.endswith("18a_c2c_pjsip")]
    return found


@pytest.fixture
async def pbx() -> AsyncIterator[SimulatedPbx]:
    """A PBX that plays recorded calls; a click is one, too."""
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret", click=click_trace())
    await pbx.start()
    yield pbx
    await pbx.stop()


@pytest.fixture
async def crm() -> AsyncIterator[Receiver]:
    """A CRM that takes down what it is asked; it listens once a test starts it."""
    async with Receiver() as receiver:
        yield receiver
