"""One Asterisk of each version for all tests of a process, and its console beside a test that failed.

Where `tests/run` has the tests run side by side (pytest-xdist), each worker process has Asterisks of its own, in
networks of their own, on top of the same root filesystems; all end with the worker, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.asterisk.lab import mariadb
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.bridge import CRM
from tests.asterisk.lab.cdr import CdrTable, attached
from tests.asterisk.lab.mariadb import Database
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, BuildError, root_filesystem
from tests.needs import missing

from crmbridge.demo.receiver import Receiver

CONSOLE = pytest.StashKey[tuple[Pbx, int]]()


class Lab:
    """What the tests of this process share: root filesystems and Asterisks, each made when the first test asks for it.

    Not session fixtures with parameters: pytest ends such a one whenever the next test has other parameters.
    """

    def __init__(self, stack: ExitStack, run: Path) -> None:
        """`run`: a folder that all processes of this run of the tests share."""
        self._stack = stack
        self._run = run
        self._roots: dict[str, Path] = {}
        self._running: dict[str, Pbx] = {}
        self._database: Database | None = None
        self._tables: dict[Pbx, CdrTable] = {}

    def root(self, version: str) -> Path:
        """A root filesystem; it is built over the network, and where that can't be had the running test is skipped."""
        if version not in self._roots:
            with _first_tries(self._run / f"asterisk-{version}") as failed:
                if failed.exists():
                    missing(failed.read_text())
                try:
                    self._roots[version] = self._stack.enter_context(root_filesystem(version))
                except BuildError as error:
                    failed.write_text(str(error))
                    missing(str(error))
        return self._roots[version]

    def pbx(self, version: str) -> Pbx:
        """A running Asterisk: the one there is, or another one where that has ended."""
        if version not in self._running or not self._running[version].is_running:
            network = self._stack.enter_context(Network())
            self._running[version] = self._stack.enter_context(lab_pbx.running(version, self.root(version), network))
        return self._running[version]

    def records(self, pbx: Pbx) -> CdrTable:
        """The table into which a running Asterisk writes its call records, from when it is first asked for."""
        if self._database is None:
            network = self._stack.enter_context(Network())
            self._database = self._stack.enter_context(mariadb.running(network))
        if pbx not in self._tables:
            self._tables[pbx] = attached(pbx, self._database)
        return self._tables[pbx]


@contextmanager
def _first_tries(file: Path) -> Iterator[Path]:
    """One process after the other; what the first that failed leaves in the file is true of the others, too."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield file


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    base = tmp_path_factory.getbasetemp()
    with ExitStack() as stack:
        yield Lab(stack, base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(params=sorted(RECIPES))
def root(request: pytest.FixtureRequest, lab: Lab) -> tuple[str, Path]:
    """Version and root filesystem."""
    return request.param, lab.root(request.param)


@pytest.fixture
def pbx(root: tuple[str, Path], lab: Lab, request: pytest.FixtureRequest) -> Iterator[Pbx]:
    """The running Asterisk, without calls; what it says from now on is this test's."""
    version, _ = root
    pbx = lab.pbx(version)
    request.node.stash[CONSOLE] = (pbx, len(pbx.log()))
    yield pbx
    if pbx.is_running and not pbx.is_idle():
        pbx.stop()  # with the calls that the test has left in it: the next one gets another


@pytest.fixture
def records(pbx: Pbx, lab: Lab) -> CdrTable:
    """An empty table, into which the running Asterisk writes its call records. The test needs "mariadb"."""
    table = lab.records(pbx)
    table.clear()
    return table


@pytest.fixture
async def crm(pbx: Pbx) -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        await receiver.start(sock=pbx.network.bound(CRM))
        yield receiver


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and CONSOLE in item.stash:
        pbx, since = item.stash[CONSOLE]
        report.sections.append((f"Asterisk {pbx.version}", pbx.log()[since:][-10000:]))
        pbx.stop()  # with whatever the test has left in it: the next one gets another
    return report
