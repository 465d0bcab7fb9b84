"""A real MariaDB in a folder of its own, on a socket and on a port, ended and removed at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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


class Server:
    """A server that can be frozen, killed, and started anew on the same data and port. Raises DatabaseError."""

    def __init__(
        self,
        folder: Path,
        network: Network | None = None,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        options: Sequence[str] = (),
        settings: Path | None = None,
        like: Path | None = None,
    ) -> None:
        """As `running` has it; `folder` is for its data, and its path not longer than a socket's may be.

        `settings`: a file as an administrator would write it. `like`: begin with a copy of the data of a server that
        does not run.
        """
        self._folder = folder
        # A server that starts deletes what others that are at work have in a temporary folder that they share.
        ours = ["--user=root"] if os.geteuid() == 0 else []
        ours += [f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
        if like is None:
            _install(ours)
        else:
            shutil.copytree(like, folder / "data")
        self.database = Database(host, port or (3307 if network else free_port()), folder / "socket")
        command = ["mariadbd", f"--defaults-file={settings}" if settings else "--no-defaults"]
        command += [f"--socket={self.database.socket}", *ours]
        command += [f"--port={self.database.port}", f"--bind-address={self.database.host}"]
        command += [*([] if settings else ["--innodb-flush-log-at-trx-commit=0"]), *options]
        self._command = network.command(*command) if network else ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self._stack = ExitStack()

    def start(self, *more: str, **environment: str) -> None:
        """Start it, with more options; when this returns it answers."""
        for leftover in (self._folder / "ready", self.database.socket):
            leftover.unlink(missing_ok=True)
        command = [*self._command, *more]
        self._stack.enter_context(_server(command, self._folder / "ready", self._folder / "log", environment))

    def stop(self) -> None:
        """End it, at once if it doesn't end by itself."""
        self._stack.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(int(next((self._folder / "data").glob("*.pid")).read_text(encoding="ascii")), number)


@contextmanager
def server(
    network: Network | None = None, *, host: str = "127.0.0.1", port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """A server that runs, in a folder of its own; see `running`."""
    # Not the test's own temporary folder: the path of a socket may be 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="crmbridge-db.", ignore_cleanup_errors=True) as folder:
        one = Server(Path(folder), network, host=host, port=port, options=options)
        one.start()
        try:
            yield one
        finally:
            one.stop()


@contextmanager
def running(
    network: Network | None = None, *, host: str = "127.0.0.1", port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Database]:
    """A server in a network of the lab or (None, any user) in this process's own.

    `host`: the address it listens on. `port`: 3307 in a network, one that is free in this process's own, where nothing
    else is said. `options`: more of the server's. Raises DatabaseError.
    """
    with server(network, host=host, port=port, options=options) as one:
        yield one.database


def free_port() -> int:
    """A server can't be asked to choose one: the kernel is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _install(ours: list[str]) -> None:
    command = ["mariadb-install-db", "--no-defaults", *ours]
    command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise DatabaseError(f"mariadb-install-db: {(done.stderr or done.stdout)[-1000:]}")


@contextmanager
def _server(command: list[str], ready: Path, log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The server, when it has said (as it would to systemd) that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("wb") as output:
        told.bind(str(ready))
        environment = {"PATH": os.environ["PATH"], **environment, "NOTIFY_SOCKET": str(ready)}
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
