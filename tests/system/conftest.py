"""A host that has booted, with Asterisk's files but no Asterisk, and who plays Asterisk and the CRM in its network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.asterisk.lab.rootfs import HOST, BuildError, root_filesystem
from tests.needs import missing
from tests.system.host import Host, booted, wheels_of_requirements

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx

AMI_SECRET = "the-secret-that-asterisk-has"
AMI, CRM = ("127.0.0.1", 5039), ("127.0.0.3", 8080)

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
    with ExitStack() as stack:
        try:
            root = stack.enter_context(root_filesystem(HOST))
            host = stack.enter_context(booted(root, wheels_of_requirements(), tmp_path))
        except BuildError as error:
            missing(str(error))
        yield host


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
