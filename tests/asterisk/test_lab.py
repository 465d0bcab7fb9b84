"""The lab itself: apart from one another, and gone without a trace."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.asterisk.lab import mariadb
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.ami import session
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import LAB_SECRET, LAB_USER, Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

HOLDER = """
import sys, time
from pathlib import Path
from tests.asterisk.lab import pbx
from tests.asterisk.lab.network import Network
with Network() as network, pbx.running(sys.argv[1], Path(sys.argv[2]), network) as running:
    print(running.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.needs("asterisk")
async def test_two_of_one_version_know_nothing_of_one_another(pbx: Pbx, root: tuple[str, Path]) -> None:
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as other:
        async with session(pbx, LAB_USER, LAB_SECRET) as here, session(other, LAB_USER, LAB_SECRET) as there:
            await perform(other, SCENARIOS["did_answered"])
            assert there.events("Newchannel")
            assert not here.events("Newchannel")


@pytest.mark.needs("asterisk")
def test_the_host_does_not_see_its_mounts(pbx: Pbx, root: tuple[str, Path]) -> None:
    _, path = root
    assert f"lowerdir={path}" in Path(f"/proc/{pbx.pid}/mounts").read_text()
    assert str(path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.needs("asterisk")
def test_it_dies_with_the_tests_that_started_it(root: tuple[str, Path]) -> None:
    version, path = root
    tests = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, version, str(path)],
        cwd=tests,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        asterisk = os.pidfd_open(int(holder.stdout.readline()))
        try:
            holder.kill()
            ended = select.poll()
            ended.register(asterisk, select.POLLIN)
            assert ended.poll(20_000), "Asterisk outlived the process that started it"
        finally:
            os.close(asterisk)


@pytest.mark.needs("namespaces")
def test_a_network_has_all_of_loopback_to_itself() -> None:
    with Network() as one, Network() as other:
        with one.bound(("127.0.0.77", 5060), socket.SOCK_DGRAM), other.bound(("127.0.0.77", 5060), socket.SOCK_DGRAM):
            pass
        with one.bound(("127.0.0.1", 5038)), pytest.raises(ConnectionRefusedError):
            other.connected(("127.0.0.1", 5038))
        assert one.run("ip", "-brief", "link").split()[0] == "lo"


@pytest.mark.needs("mariadb", "namespaces")
def test_a_database_takes_a_table() -> None:
    with Network() as network, mariadb.running(network) as database:
        database.run("CREATE DATABASE asteriskcdrdb")
        database.run("CREATE TABLE asteriskcdrdb.cdr (uniqueid varchar(32) NOT NULL) ENGINE=InnoDB")
        database.run("INSERT INTO asteriskcdrdb.cdr VALUES ('1795413177.274')")
        assert database.run("SELECT uniqueid FROM asteriskcdrdb.cdr").split() == ["uniqueid", "1795413177.274"]
        network.connected((database.host, database.port)).close()
        folder = database.socket.parent
    assert not folder.exists()
