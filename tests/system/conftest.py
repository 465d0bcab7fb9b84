"""A host that has booted, with a real Asterisk or one that is played in its network, and who plays the CRM there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.asterisk.lab.bridge import CRM
from tests.asterisk.lab.pbx import SIP
from tests.asterisk.lab.phone import Phone
from tests.asterisk.lab.rootfs import HOST, BuildError, root_filesystem
from tests.needs import missing
from tests.system.asterisk import Line, asterisk_is_there
from tests.system.host import Host, booted, wheels_of_requirements
from tests.system.service import SEEN, Seen

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx

AMI_SECRET = "the-secret-that-asterisk-has"
AMI = ("127.0.0.1", 5039)

MANAGER = f"""
[general]
enabled = yes
port = {AMI[1]}     ; not the usual one
#include manager_additional.conf
#include manager_custom.conf
"""
CUSTOM = f"""
[other]
secret = of-another-user
[crmbridge]
secret = {AMI_SECRET} ; chosen before the installation
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with _booted(tmp_path) as host:
        yield host


@pytest.fixture
async def asterisk_host(tmp_path: Path) -> AsyncIterator[Host]:
    """With Asterisk 22 as a service."""
    with _booted(tmp_path, asterisk="22") as host:
        await asterisk_is_there(host)
        yield host


@contextmanager
def _booted(folder: Path, asterisk: str = "") -> Iterator[Host]:
    with ExitStack() as stack:
        try:
            root = stack.enter_context(root_filesystem(HOST))
            beside = stack.enter_context(root_filesystem(asterisk)) if asterisk else None
            host = stack.enter_context(booted(root, wheels_of_requirements(), folder, asterisk=beside))
        except BuildError as error:
            missing(str(error))
        yield host


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Seen:
    return Seen(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured on a host."""
    lines = [
        value for one in terminalreporter.getreports("passed") for name, value in one.user_properties if name == SEEN
    ]
    if lines:
        terminalreporter.section("what systemd and the CRM saw")
    for line in dict.fromkeys(lines):
        terminalreporter.line(str(line))


@pytest.fixture
async def line(asterisk_host: Host) -> AsyncIterator[Line]:
    network = asterisk_host.network
    async with (
        Phone(network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
        Receiver() as crm,
    ):
        await crm.start(sock=network.bound(CRM))
        yield Line(agent, trunk, crm)


@pytest.fixture
async def pbx(host: Host) -> AsyncIterator[SimulatedPbx]:
    pbx = SimulatedPbx(username="crmbridge", secret=AMI_SECRET)
    await pbx.start(sock=host.network.bound(AMI))
    yield pbx
    await pbx.stop()


@pytest.fixture
async def crm(host: Host) -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        await receiver.start(sock=host.network.bound(CRM))
        yield receiver
