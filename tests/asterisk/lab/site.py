"""A hosting company's site: two bridges, three database nodes, two PBXes and the CRM, each a machine on one switch.

The bridges and the database run with the files of `docs/scale/`, in which nothing is filled in but secrets and where
the CRM is. Each PBX has its CDR table in a MariaDB of its own, as FreePBX does; Asterisk writes it over the socket, the
bridges read it over the network.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.asterisk.lab import galera, mariadb
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.bridge import COMMAND, PASSWORD, Bridge, started
from tests.asterisk.lab.cdr import CdrTable, attached
from tests.asterisk.lab.pbx import SECRET, SHIPPED, Pbx
from tests.asterisk.lab.switch import Machine, Switch

SCALE = galera.SETTINGS.parent
DATABASE_SECRET = "database-secret-of-the-lab"
CRM_PORT, HTTP_PORT = 8080, 6560
PBXES = {"haifa": ("16", "10.77.0.31", "10"), "eilat": ("22", "10.77.0.32", "20")}
"""Version, address and the client's id, by name."""
IN_TURN = "10.77.0.21,10.77.0.22,10.77.0.23"
"""The database nodes, as both bridges ask them."""
RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE VIEW"
FRESH = "fresh"
"""A database beside the bridges' own, for a list made anew."""
_MANAGER = '[general]\nenabled = yes\nport = 5038\nbindaddr = 0.0.0.0\n#include "manager.d/*.conf"\n'
_FROM_BRIDGES = "permit = 10.77.0.11/255.255.255.255\npermit = 10.77.0.12/255.255.255.255\n"


class Host:
    """A bridge's machine, on which it is started, ended in one way or another, and started again."""

    def __init__(self, machine: Machine, folder: Path, crm: Machine, databases: str) -> None:
        """`databases`: their addresses, in the order in which it asks them."""
        self.machine = machine
        self.lives: list[Bridge] = []
        self._stack = AsyncExitStack()
        self._folder = folder
        folder.mkdir()
        self.config = folder / "config.toml"
        self.config.write_text(settings(machine.name, crm.address, folder, databases), encoding="ascii")

    @property
    def now(self) -> Bridge:
        """The one that runs, or the last that did."""
        return self.lives[-1]

    @property
    def lines(self) -> list[str]:
        """All that was logged in all lives."""
        return [line for life in self.lives for line in life.lines]

    async def start(self) -> None:
        """Start it; when this returns it listens and has a session with each PBX."""
        command = self.machine.network.command(COMMAND, "run", "--config", str(self.config))
        self.lives.append(await self._stack.enter_async_context(started(command, pbxes=len(PBXES))))

    async def stop(self) -> int | None:
        """End it as systemd would; its exit code."""
        await self._stack.aclose()
        return self.now.process.returncode

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        await self.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.now.process.send_signal(number)

    async def command(self, *arguments: str, config: Path | None = None) -> str:
        """Run another command of the bridge here; what it prints."""
        command = self.machine.network.command(COMMAND, *arguments, "--config", str(config or self.config))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def outbox(self) -> list[dict[str, Any]]:
        """All that `crmbridge outbox list` shows."""
        listed: list[dict[str, Any]] = json.loads(await self.command("outbox", "list", "--json", "--limit", "100000"))
        return listed

    def fresh_config(self) -> Path:
        """The same settings, for a list of its own."""
        state = self._folder / FRESH
        state.mkdir()
        text = self.config.read_text(encoding="ascii").replace(f'"{self._folder}"', f'"{state}"')
        config = state / "config.toml"
        config.write_text(re.sub(r'/crmbridge"$', f'/{FRESH}"', text, flags=re.MULTILINE), encoding="ascii")
        return config


def settings(name: str, crm: str, state: Path, databases: str) -> str:
    """The administrator's file of a bridge, with the lab's secrets, where its CRM is, and what it asks first."""
    text = (SCALE / f"{name}.toml").read_text(encoding="ascii")
    for found, put in (
        ("https://crm.example/", f"http://{crm}:{CRM_PORT}/"),
        ('secret = "REPLACE-ME"', f'secret = "{SECRET}"'),
        ('password = "REPLACE-ME"', f'password = "{PASSWORD}"'),
        (IN_TURN, databases),
        (":REPLACE-ME@", f":{DATABASE_SECRET}@"),
        ("[store]\n", f'[store]\nstate_dir = "{state}"\n'),
    ):
        assert found in text, f"{name}.toml has no {found!r}"
        text = text.replace(found, put)
    return text + '\n[log]\nformat = "json"\n'


@dataclass
class Site:
    """All of it; the bridges are not started yet."""

    switch: Switch
    crm: Machine
    hosts: list[Host]
    databases: list[Machine]
    cluster: galera.Cluster
    pbxes: Mapping[str, Pbx]
    tables: Mapping[str, CdrTable]
    machines: Mapping[str, Machine]
    """By name."""

    @asynccontextmanager
    async def bridges(self) -> AsyncIterator[None]:
        """Both bridges, started, and ended as systemd would."""
        try:
            for host in self.hosts:
                await host.start()
            yield
        finally:
            for host in self.hosts:
                await host.stop()

    async def ask(self, address: str, path: str, *, source: Machine | None = None) -> tuple[int, Any]:
        """What is asked over HTTP from the CRM's machine, or another one. Raises aiohttp.ClientError, TimeoutError."""
        network = (source or self.crm).network
        connector = aiohttp.TCPConnector(socket_factory=lambda where: network.new_socket(where[0], where[1]))
        headers = {"Authorization": aiohttp.encode_basic_auth("crm", PASSWORD)}
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.get(f"http://{address}:{HTTP_PORT}{path}", timeout=aiohttp.ClientTimeout(10)) as answer,
        ):
            return answer.status, await answer.json()


@contextmanager
def standing(roots: Mapping[str, Path], *, spread: bool = False) -> Iterator[Site]:
    """A site with its databases and PBXes running. `roots`: root filesystems by Asterisk's version.

    `spread`: the second bridge asks another database node first.
    """
    orders = [IN_TURN, "10.77.0.22,10.77.0.23,10.77.0.21" if spread else IN_TURN]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crmbridge-site.")))
        switch = stack.enter_context(Switch())
        crm = switch.join("crm", "10.77.0.40")
        hosts = [
            Host(switch.join(f"bridge-{number}", f"10.77.0.1{number}"), folder / f"bridge-{number}", crm, order)
            for number, order in enumerate(orders, start=1)
        ]
        databases = [switch.join(f"db-{number}", f"10.77.0.2{number}") for number in (1, 2, 3)]
        cluster = stack.enter_context(
            galera.running([galera.Place(machine.address, machine.network) for machine in databases])
        )
        cluster.nodes[0].database.run(_tables_of_ours())
        pbxes: dict[str, Pbx] = {}
        tables: dict[str, CdrTable] = {}
        machines = {}
        for name, (version, address, _) in PBXES.items():
            machine = machines[name] = switch.join(name, address)
            pbxes[name] = stack.enter_context(
                lab_pbx.running(version, roots[version], machine.network, shipped=_shipped(folder / name))
            )
            server = stack.enter_context(_cdr_server(machine))
            tables[name] = attached(pbxes[name], server, name="asteriskcdrdb")
        machines |= {one.name: one for one in (crm, *databases, *(host.machine for host in hosts))}
        yield Site(switch, crm, hosts, databases, cluster, pbxes, tables, machines)


def _tables_of_ours() -> str:
    user = f"CREATE USER crmbridge@'10.77.0.%' IDENTIFIED BY '{DATABASE_SECRET}'"
    grants = "".join(
        f"; CREATE DATABASE {name}; GRANT {RIGHTS} ON {name}.* TO crmbridge@'10.77.0.%'"
        for name in ("crmbridge", FRESH)
    )
    return user + grants


def _shipped(folder: Path) -> Path:
    """Our files as we ship them, but for where the bridges come from; the manager listens to more than this host."""
    shutil.copytree(SHIPPED, folder)
    ours = folder / "manager.d" / "crmbridge.conf"
    text = ours.read_text(encoding="ascii")
    there = "permit = 127.0.0.1/255.255.255.255\n"
    assert there in text
    ours.write_text(text.replace(there, _FROM_BRIDGES), encoding="ascii")
    (folder / "manager.conf").write_text(_MANAGER, encoding="ascii")
    return folder


@contextmanager
def _cdr_server(machine: Machine) -> Iterator[mariadb.Database]:
    with mariadb.running(machine.network, host=machine.address, port=3306) as database:
        database.run(
            f"CREATE USER crmbridge@'10.77.0.%' IDENTIFIED BY '{DATABASE_SECRET}'; "
            "GRANT SELECT ON asteriskcdrdb.* TO crmbridge@'10.77.0.%'"
        )
        yield database
