"""One Asterisk of each version for all tests, and its console beside a test that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.bridge import CRM
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, BuildError, root_filesystem
from tests.needs import missing

from crmbridge.demo.receiver import Receiver

CONSOLE = pytest.StashKey[tuple[Pbx, int]]()


@pytest.fixture(scope="session", params=sorted(RECIPES))
def root(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """Version and root filesystem; it is built over the network, and where that can't be had the tests are skipped."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(root_filesystem(request.param))
        except BuildError as error:
            missing(str(error))
        yield request.param, path


@pytest.fixture(scope="session")
def shared_pbx(root: tuple[str, Path]) -> Iterator[Pbx]:
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        yield pbx


@pytest.fixture
def pbx(shared_pbx: Pbx, request: pytest.FixtureRequest) -> Pbx:
    """The running Asterisk, without calls; what it says from now on is this test's."""
    request.node.stash[CONSOLE] = (shared_pbx, len(shared_pbx.log()))
    return shared_pbx


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
    return report
