"""A real MariaDB in a folder of its own, on a socket and on a port, ended and removed at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.asterisk.lab.network import Network
from tests.asterisk.lab.readiness import says_ready

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


class DatabaseError(Exception):
    """MariaDB did not start; the message is its own last words."""


@dataclass(frozen=True)
class Database:
    """A running server. Its root user needs no password."""

    host: str
    port: int
    socket: Path

    def run(self, sql: str, timeout_s: float = 30) -> str:
        """Statements by MariaDB's own client, over the socket; what it prints. Raises CalledProcessError."""
        command = ["mariadb", "--no-defaults", "--user=root", f"--socket={self.socket}", "--batch", "--execute", sql]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s).stdout


@contextmanager
def running(
    network: Network | None = None, *, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Database]:
    """A server on 127.0.0.1, in a network of the lab or (None, any user) in this process's own.

    `port`: 3307 in a network, one that is free in this process's own, where nothing else is said. `options`: more of
    the server's. Raises DatabaseError.
    """
    port = port or (3307 if network else free_port())
    # Not the test's own temporary folder: the path of a socket may be 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="crmbridge-db.", ignore_cleanup_errors=True) as folder:
        where = Database("127.0.0.1", port, Path(folder) / "socket")
        data = Path(folder) / "data"
        as_user = ["--user=root"] if os.geteuid() == 0 else []
        _install(data, as_user)
        command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={where.socket}", *as_user]
        command += [f"--port={port}", f"--bind-address={where.host}", "--innodb-flush-log-at-trx-commit=0", *options]
        in_network = network.command(*command) if network else ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with _server(in_network, Path(folder) / "ready", Path(folder) / "log"):
            yield where


def free_port() -> int:
    """A server can't be asked to choose one: the kernel is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _install(data: Path, as_user: list[str]) -> None:
    command = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", *as_user]
    command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise DatabaseError(f"mariadb-install-db: {(done.stderr or done.stdout)[-1000:]}")


@contextmanager
def _server(command: list[str], ready: Path, log: Path) -> Iterator[None]:
    """The server, when it has said (as it would to systemd) that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("wb") as output:
        told.bind(str(ready))
        environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(ready)}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            if not says_ready(process, told, timeout_s=START_TIMEOUT_S):
                raise DatabaseError(f"MariaDB did not start: {log.read_text(errors='replace')[-2000:]}")
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
