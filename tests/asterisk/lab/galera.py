"""A MariaDB Galera cluster of three nodes, each of which can be killed, frozen and started again.

On loopback or in networks of their own, with the settings that we tell administrators to take (`docs/scale/galera.cnf`)
but for addresses and what a small machine needs.

A node that comes back is brought up to date by what the others have kept of late (IST). No state is ever copied whole
(SST), which would need rsync and a user of its own: all begin with the same data, and each says by itself how far it
had come (`--wsrep-recover`, as Debian's unit asks it). Galera runs a script for both all the same: ours hands that on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.asterisk.lab.mariadb import START_TIMEOUT_S, DatabaseError, Server, free_port
from tests.asterisk.lab.network import Network

NODES = 3
PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
SETTINGS = Path(__file__).parents[3] / "docs" / "scale" / "galera.cnf"
_IN_STEP = "SET SESSION wsrep_sync_wait = 1; SELECT count(*) FROM mysql.global_priv"
_SCRIPT = """#!/bin/sh
# As mariadbd runs it: a joiner says where it can be reached and, once the donor has been there, how far it had come.
while [ $# -gt 0 ]; do
    case "$1" in --role) role=$2 ;; --address) address=$2 ;; --gtid) gtid=$2 ;; --bypass) bypass=yes ;; esac
    shift
done
if [ "$role" = joiner ]; then
    mkfifo "$LAB_FOLDER/joiner"
    echo "ready $LAB_FOLDER/joiner"
    read -r _ <"$LAB_FOLDER/joiner"
    rm "$LAB_FOLDER/joiner"
    echo "$LAB_POSITION 0"
else
    [ "$bypass" = yes ] || exit 1  # the node was away for too long: what it lacks is not kept
    echo "$gtid" >"$address"
    echo "done $gtid"
fi
"""
"""`wsrep_sst_lab`."""
_SMALL = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--wsrep-sst-method=lab")


@dataclass(frozen=True)
class Place:
    """Where a node stands; the ports are Galera's usual ones."""

    host: str
    network: Network | None = None
    port: int = 3306
    replication: int = 4567
    transfer: int = 4568

    @classmethod
    def on_loopback(cls) -> Place:
        """One of several nodes that share this process's network."""
        return cls("127.0.0.1", None, free_port(), free_port(), free_port())


class Node(Server):
    """One server of the cluster."""

    def begin(self) -> None:
        """Start it as the first of the cluster, with what it has."""
        self.start("--wsrep-new-cluster", f"--wsrep-start-position={self._position()}", **self.environment)

    def join(self) -> None:
        """Start it, for the first time or after it was stopped or killed, while others of the cluster run."""
        (self._folder / "joiner").unlink(missing_ok=True)
        position = self._position()
        self.start(f"--wsrep-start-position={position}", **self.environment, LAB_POSITION=position)
        self.until_synced()  # it says that it is ready before that

    def until_synced(self) -> None:
        """Ask until it takes part in the cluster. Raises DatabaseError."""
        until_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until_s:
            # One that was frozen believes so until it hears that it was given up: the others have to answer, too.
            with suppress(subprocess.CalledProcessError):
                if "Synced" in self.database.run(f"{_IN_STEP}; SHOW STATUS LIKE 'wsrep_local_state_comment'"):
                    return
        raise DatabaseError("a node does not come into sync with its cluster")

    def progress(self) -> int:
        """How far it had come when it was ended: the number of its last write set."""
        return int(self._position().rpartition(":")[2])

    def may_begin(self, *, may: bool) -> None:
        """Say whether it may make the cluster anew, as its administrator would."""
        state = self._folder / "data" / "grastate.dat"
        text = state.read_text(encoding="ascii")
        state.write_text(re.sub(r"(?<=safe_to_bootstrap: )\d", str(int(may)), text), encoding="ascii")

    @property
    def environment(self) -> dict[str, str]:
        """For our script."""
        return {"LAB_FOLDER": str(self._folder), "PATH": f"{self._folder.parent}:{os.environ['PATH']}"}

    def freeze(self) -> None:
        """Let it say nothing any more, with all its connections open."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def _position(self) -> str:
        said = subprocess.run(
            [*self._command, "--wsrep-recover"], capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
        found: list[str] = re.findall(r"Recovered position:? ([0-9a-f-]+:-?\d+)", said.stdout + said.stderr)
        if not found:
            raise DatabaseError(f"a node does not know how far it had come: {said.stderr[-1000:]}")
        return found[-1]


class Cluster:
    """Three nodes."""

    def __init__(self, folder: Path, places: Sequence[Place]) -> None:
        """`folder`: with a path of no more than some 80 characters."""
        script = folder / "wsrep_sst_lab"
        script.write_text(_SCRIPT, encoding="ascii")
        script.chmod(0o755)
        self.nodes: list[Node] = []
        for number, place in enumerate(places):
            own = folder / str(number)
            own.mkdir()
            settings = own / "galera.cnf"
            settings.write_text(_settings(places, number), encoding="ascii")
            like = folder / "0" / "data" if number else None
            self.nodes.append(
                Node(own, place.network, host=place.host, port=place.port, options=_SMALL, settings=settings, like=like)
            )
            if number == 0:
                # It makes the cluster, and ends: the others begin with a copy of what it has.
                self.nodes[0].start("--wsrep-new-cluster")
                self.nodes[0].stop()
        for node in self.nodes[1:]:
            node.may_begin(may=False)

    def start(self) -> None:
        """Start all; when this returns all are in sync."""
        self.nodes[0].begin()
        for node in self.nodes[1:]:  # not both at once: they would find each other before the cluster
            node.join()

    def revive(self) -> None:
        """Start all after all were killed: the one that had come furthest makes the cluster anew."""
        first = max(self.nodes, key=Node.progress)
        for node in self.nodes:
            node.may_begin(may=node is first)
        first.begin()
        for node in self.nodes:
            if node is not first:
                node.join()

    def stop(self) -> None:
        """End all."""
        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(node.stop) for node in self.nodes]:
                done.result()


@contextmanager
def running(places: Sequence[Place] = ()) -> Iterator[Cluster]:
    """A cluster that runs, on loopback where no places are named, in a folder of its own. Raises DatabaseError."""
    with tempfile.TemporaryDirectory(prefix="crmbridge-galera.", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), places or [Place.on_loopback() for _ in range(NODES)])
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _settings(places: Sequence[Place], number: int) -> str:
    """The administrator's file, with the addresses of this one among these places."""
    own = places[number]
    everyone = ",".join(f"{place.host}:{place.replication}" for place in places)
    text = SETTINGS.read_text(encoding="ascii")
    for name, value in {
        "bind-address": own.host,
        "port": own.port,
        "wsrep_cluster_address": f"gcomm://{everyone}",
        "wsrep_node_address": f"{own.host}:{own.replication}",
        "wsrep_node_name": f"db-{number + 1}",
    }.items():
        text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        if found != 1:
            raise DatabaseError(f"{SETTINGS} sets {name} {found} times")
    listening = f"gmcast.listen_addr=tcp://{own.host}:{own.replication};ist.recv_addr={own.host}:{own.transfer};"
    return text.replace('wsrep_provider_options = "', f'wsrep_provider_options = "{listening}')
