"""A MariaDB Galera cluster of three nodes on loopback, each of which can be killed, frozen and started again.

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
from contextlib import contextmanager
from pathlib import Path

from tests.asterisk.lab.mariadb import START_TIMEOUT_S, DatabaseError, Server, free_port

NODES = 3
PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
_QUICK = (
    "evs.keepalive_period=PT0.3S;evs.inactive_check_period=PT0.3S;evs.join_retrans_period=PT0.3S;"
    "evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S;evs.install_timeout=PT4S"
)
"""A node that is gone is given up after two seconds, as docs/scale.md advises; by Galera's own settings after five."""
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
_SMALL = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M")


class Node(Server):
    """One server of the cluster."""

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
            if "Synced" in self.database.run("SHOW STATUS LIKE 'wsrep_local_state_comment'"):
                return
        raise DatabaseError("a node does not come into sync with its cluster")

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

    def __init__(self, folder: Path) -> None:
        """`folder`: with a path of no more than some 80 characters."""
        ports = [(free_port(), free_port(), free_port()) for _ in range(NODES)]
        script = folder / "wsrep_sst_lab"
        script.write_text(_SCRIPT, encoding="ascii")
        script.chmod(0o755)
        everyone = ",".join(f"127.0.0.1:{replication}" for _, replication, _ in ports)
        self.nodes: list[Node] = []
        for number, (port, replication, transfer) in enumerate(ports):
            own = folder / str(number)
            own.mkdir()
            options = _options(everyone, replication, transfer)
            like = folder / "0" / "data" if number else None
            self.nodes.append(Node(own, port=port, options=options, like=like))
            if number == 0:
                # It makes the cluster, and ends: the others begin with a copy of what it has.
                self.nodes[0].start("--wsrep-new-cluster")
                self.nodes[0].stop()
        for node in range(1, NODES):
            state = folder / str(node) / "data" / "grastate.dat"
            state.write_text(state.read_text(encoding="ascii").replace("bootstrap: 1", "bootstrap: 0"))

    def start(self) -> None:
        """Start all; when this returns all are in sync."""
        self.nodes[0].start("--wsrep-new-cluster", **self.nodes[0].environment)
        for node in self.nodes[1:]:  # not both at once: they would find each other before the cluster
            node.join()

    def stop(self) -> None:
        """End all."""
        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(node.stop) for node in self.nodes]:
                done.result()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster that runs, in a folder of its own. Raises DatabaseError."""
    with tempfile.TemporaryDirectory(prefix="crmbridge-galera.", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _options(everyone: str, replication: int, transfer: int) -> Sequence[str]:
    provider = f"gmcast.listen_addr=tcp://127.0.0.1:{replication};ist.recv_addr=127.0.0.1:{transfer};gcache.size=16M"
    return (
        "--wsrep-on=ON",
        f"--wsrep-provider={PROVIDER}",
        f"--wsrep-cluster-address=gcomm://{everyone}",
        f"--wsrep-node-address=127.0.0.1:{replication}",
        f"--wsrep-provider-options={provider};{_QUICK}",
        "--wsrep-sst-method=lab",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
        *_SMALL,
    )
