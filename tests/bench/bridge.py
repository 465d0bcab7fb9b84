"""The bridge as it is installed, before a PBX's CDR table: its settings, `crmbridge sync`, `crmbridge run`.

No Asterisk is there: the daemon serves its call list all the same.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.asterisk.lab.mariadb import Database, free_port
from tests.asterisk.lab.readiness import says_ready
from tests.bench.cdr_office import EXTENSION_PATTERN, TIMEZONE, TRUNKS

COMMAND = str(Path(sys.executable).with_name("crmbridge"))
PASSWORD = "bench-password-of-all"
STORE = "crmbridge"
"""The call list's database."""
VIEWS = ("all_calls", "incoming_calls", "outgoing_calls")
LOOK_S = 0.1
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
SYNC_TIMEOUT_S = 4 * 3600

_FRAME = str.maketrans("╭╮╰╯│─", "      ")

Store = Literal["mariadb", "sqlite"]


class PartError(Exception):
    """A part of the bench can't be measured; the message names it and says why."""


@dataclass(frozen=True)
class Sync:
    """One run of `crmbridge sync`."""

    wall_s: float
    cpu_s: float
    """Of the command alone, without the database's."""
    peak_mb: float
    """Of memory that was in RAM (VmHWM), its children's added."""
    said: object
    """What it printed, read as JSON."""


def prepared(database: Database) -> None:
    """The users: one that may read the CDR table, one whose database the call list is."""
    grants = (
        f"CREATE DATABASE {STORE} CHARACTER SET utf8mb4",
        f"CREATE USER cdr_reader@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
        "GRANT SELECT ON asteriskcdrdb.cdr TO cdr_reader@'127.0.0.1'",
        f"CREATE USER crmbridge@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
        f"GRANT ALL ON {STORE}.* TO crmbridge@'127.0.0.1'",
        f"CREATE USER crm@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
    )
    database.run(";".join(grants))


def open_views(database: Database) -> None:
    """The CRM's own user may read the views, and nothing else. Raises PartError while there are none."""
    try:
        database.run(";".join(f"GRANT SELECT ON {STORE}.{view} TO crm@'127.0.0.1'" for view in VIEWS))
    except subprocess.CalledProcessError as error:
        raise PartError(f"the views for direct SQL are not there: {error.stderr.strip()}") from None


def configured(folder: Path, database: Database, store: Store) -> tuple[Path, int]:
    """The settings, and the HTTP port in them."""
    port, nobody = free_port(), free_port()
    at = f"@{database.host}:{database.port}"
    url = f'url = "mysql+asyncmy://crmbridge:{PASSWORD}{at}/{STORE}"' if store == "mariadb" else ""
    file = folder / "config.toml"
    file.write_text(
        f"""
        [crm]
        url = "http://127.0.0.1:{nobody}/webservice.php"
        client_id = 10
        [ami]
        port = {nobody}
        username = "crmbridge"
        secret = "{PASSWORD}"
        [pbx]
        extensions = '{EXTENSION_PATTERN}'
        trunks = {json.dumps([trunk.endpoint for trunk in TRUNKS])}
        [http]
        listen = "127.0.0.1:{port}"
        username = "crm"
        password = "{PASSWORD}"
        [store]
        state_dir = "{folder}"
        {url}
        [cdr]
        source = "mysql+asyncmy://cdr_reader:{PASSWORD}{at}/asteriskcdrdb"
        timezone = "{TIMEZONE.key}"
        [log]
        format = "json"
        """
    )
    return file, port


def authorization() -> str:
    """The header's value."""
    return f"Basic {base64.b64encode(f'crm:{PASSWORD}'.encode()).decode()}"


def sync(config: Path) -> Sync:
    """Run `crmbridge sync` to its end. Raises PartError where it fails."""
    command = [COMMAND, "sync", "--config", str(config), "--json"]
    cpu_s, began = _children_cpu_s(), time.monotonic()
    said, complained = config.parent / "sync.out", config.parent / "sync.err"
    with said.open("wb") as out, complained.open("wb") as err:
        process = subprocess.Popen(_dies_with_us(command), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        peak_mb = _watched(process)
        wall_s, cpu_s = time.monotonic() - began, _children_cpu_s() - cpu_s
    if process.returncode != 0:
        raise PartError(f"`crmbridge sync` ended with {process.returncode}: {_last_words(complained)}")
    return Sync(wall_s, cpu_s, peak_mb, _read(said.read_text()))


@contextmanager
def running(config: Path) -> Iterator[int]:
    """`crmbridge run`, when it serves HTTP; its process id. Raises PartError where it does not start."""
    address, log = config.parent / "ready", config.parent / "run.err"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("wb") as err:
        told.bind(str(address))
        environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
        command = _dies_with_us([COMMAND, "run", "--config", str(config)])
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=err)
        try:
            if not says_ready(process, told, timeout_s=START_TIMEOUT_S):
                raise PartError(f"`crmbridge run` did not start: {_last_words(log)}")
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            address.unlink()


def peak_mb(pid: int) -> float:
    """The most memory that this process had in RAM so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _watched(process: subprocess.Popen[bytes]) -> float:
    """Wait for its end; the most memory that it and its children had, each at its own worst."""
    # Not what wait4 says: that begins with the memory of the process that forked it.
    peaks: dict[int, float] = {}
    deadline = time.monotonic() + SYNC_TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        for pid in _family(process.pid):
            with suppress(OSError):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_mb(pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
    return sum(peaks.values())


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            yield from _family(int(child))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _dies_with_us(command: list[str]) -> list[str]:
    return ["setpriv", "--pdeathsig", "TERM", "--", *command]


def _last_words(log: Path) -> str:
    """Without the frame that typer draws around a mistake."""
    return " ".join(log.read_text(errors="replace").translate(_FRAME).split())[-1000:]


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text[-1000:]
