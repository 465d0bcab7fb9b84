"""A PBX's host: Debian 12 with systemd as its first process, in namespaces of its own.

What it writes is in memory (`start-host`), is there again after a reboot, and gone when the test ends. Its network is
a loopback that the test process reaches into (`network`), so the packages that an installation needs come from a folder
of wheels, fetched once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.asterisk.lab.network import Network
from tests.asterisk.lab.rootfs import BuildError, cache_folder

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = ("README.md", "CHANGELOG.md", "LICENSE", "setup.cfg", "setup.py", "daemon", "requirements", "systemd")
MORE_PARTS = ("asterisk-conf", "docs", "tests/traces")
"""What of the repository an administrator needs in order to install it."""

log = logging.getLogger("host")
"""What was done there; pytest shows it beside a test that failed."""

BOOT_S, COMMAND_S, FETCH_S = 60, 120, 300
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Done:
    """How a command on the host ended."""

    code: int
    output: str
    """Standard output and error, as they came."""


class Host:
    """A host that has booted."""

    def __init__(self, booter: int, network: Network, sources: Path, ready: socket.socket, memory: Path | None) -> None:
        """`booter`: process id of `start-host`, whose child is systemd-nspawn; `ready`: where it says that it booted.

        `sources`: a folder that the host sees as /sources. `memory`: its control group for memory, of the first kind.
        """
        self._memory = memory
        self._hangs = ""
        self._booter, self._ready = booter, ready
        self._leader = _leader(booter)
        self.network = network
        self.sources = sources

    async def reboot(self) -> None:
        """Have it rebooted by its systemd, and wait until it has booted."""
        was = os.pidfd_open(self._leader)
        _forget(self._ready)
        try:
            await self.run("systemctl reboot")  # it may end before the command does
            await asyncio.to_thread(select.select, [was], [], [], BOOT_S)
        finally:
            os.close(was)
        await asyncio.to_thread(_wait_until_ready, self._ready)
        self._leader = _leader(self._booter)

    async def limit_memory(self, unit: str) -> bool:
        """See that the limit of a service's memory is held; whether it can be on this machine.

        With control groups of the second kind its own systemd does that. With those of the first kind systemd-nspawn
        leaves it none for memory: what the unit says is then held by a group that we make outside.
        """
        if self._memory is None:
            return os.access("/sys/fs/cgroup/cgroup.controllers", os.F_OK)
        shown = await self.shown("MainPID", "MemoryMax", unit=unit)
        group = self._memory / secrets.token_hex(4)
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(shown["MemoryMax"])
        (group / "cgroup.procs").write_text(str(self._seen_from_outside(int(shown["MainPID"]))))
        return True

    def _seen_from_outside(self, pid: int) -> int:
        """The process id that a process of the host has here."""
        ours = os.readlink(f"/proc/{self._leader}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "ns/pid") == ours:
                    (line,) = (x for x in (process / "status").read_text().splitlines() if x.startswith("NSpid:"))
                    if int(line.split()[-1]) == pid:
                        return int(process.name)
        raise ProcessLookupError(pid)

    async def run(self, command: str) -> Done:
        """Run a command of the shell there, as root."""
        assert not self._hangs, f"the host answered no more after: {self._hangs}"
        inside = ("nsenter", "--target", str(self._leader), "--all", "--root", "--")
        process = await asyncio.create_subprocess_exec(
            *inside,
            *("env", "--chdir=/root", "-i", f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8", "bash", "-c", command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(COMMAND_S):
                output, _ = await process.communicate()
        except TimeoutError:
            self._hangs = command  # no need to wait as long for each command that follows
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        log.info("%s -> %s\n%s", command, process.returncode, output.decode())
        return Done(process.returncode, output.decode())

    async def do(self, command: str) -> str:
        """Run a command that must succeed; its output."""
        done = await self.run(command)
        assert done.code == 0, f"{command}: {done.code}\n{done.output}"
        return done.output

    async def until(self, command: str) -> str:
        """Run a command again and again until it succeeds: for what nobody announces."""
        async with asyncio.timeout(COMMAND_S):
            while (done := await self.run(command)).code != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # between two looks
        return done.output

    async def shown(self, *properties: str, unit: str = "crmbridge") -> dict[str, str]:
        """Properties of a unit, as systemd has them."""
        text = await self.do(f"systemctl show {unit} --property={','.join(properties)}")
        return dict(line.partition("=")[::2] for line in text.splitlines())

    def add_source(self, name: str) -> Path:
        """A copy of this repository's source, seen there as /sources/NAME."""
        to = self.sources / name
        for part in (*PARTS, *MORE_PARTS):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / part, to / part)
        return to


@contextmanager
def booted(root: Path, wheels: Path, folder: Path, *, asterisk: Path | None = None) -> Iterator[Host]:
    """Boot it from a root filesystem, which is left as it is; `folder` is empty and ours. Raises BuildError.

    `asterisk`: a root filesystem with an Asterisk, seen there at /srv/asterisk.
    """
    sources = folder / "sources"
    sources.mkdir()
    pip = folder / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    notify = folder / "notify"
    with (
        _control_groups() as (joined, memory),
        Network() as network,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
    ):
        ready.bind(str(notify))
        ready.settimeout(BOOT_S)
        command = network.command(
            *joined,
            # Whatever ends this process ends all within: killing systemd-nspawn alone would leave the host running.
            *("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", str(HERE / "start-host")),
            *(f"--bind-ro={sources}:/sources", f"--bind-ro={wheels}:/wheels", f"--bind-ro={pip}:/etc/pip.conf"),
        )
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(notify),
            "ROOT": str(root),
            "ASTERISK": str(asterisk or ""),
        }
        with (folder / "console").open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            try:
                _wait_until_ready(ready)
            except TimeoutError:
                said = (folder / "console").read_text()[-500:]
                raise BuildError(f"a host with systemd does not boot here: {said}") from None
            (booter,) = _children(process.pid)
            yield Host(booter, network, sources, ready, memory)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _control_groups() -> Iterator[tuple[list[str], Path | None]]:
    """What a command line begins with that is to run in control groups of its own, which are gone afterwards.

    Also that for memory, where there is one of the first kind. Two hosts in the same ones would take each other's
    services for their own, and end them.
    """
    mounted = [Path("/sys/fs/cgroup", kind) for kind in ("systemd", "unified", "memory", "")]
    name = f"crmbridge-{secrets.token_hex(4)}"
    folders = [folder / name for folder in mounted if (folder / "cgroup.procs").exists()]
    try:
        for folder in folders:
            folder.mkdir()
    except OSError as error:
        raise BuildError(f"no control groups for a host with systemd: {error}") from error
    join = f'for g in {" ".join(map(str, folders))}; do echo $$ >$g/cgroup.procs; done; exec "$@"'
    memory = next((folder for folder in folders if folder.parent.name == "memory"), None)
    try:
        yield ["sh", "-c", join, "sh"], memory
    finally:
        for folder in folders:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a control group and those in it; the last processes in them are about to end."""
    for one in (*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder):
        for _ in range(100):
            try:
                one.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def _wait_until_ready(ready: socket.socket) -> None:
    """Wait until systemd within says that it has booted. Raises TimeoutError."""
    while "READY=1" not in ready.recv(4096).decode().splitlines():
        pass


def _forget(ready: socket.socket) -> None:
    """Take what was said before."""
    ready.settimeout(0)
    with suppress(BlockingIOError):
        while ready.recv(4096):
            pass
    ready.settimeout(BOOT_S)


def _leader(booter: int) -> int:
    """The first process of the host that has booted."""
    (nspawn,) = _children(booter)
    (leader,) = _children(nspawn)
    return leader


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wheels_of_requirements() -> Path:
    """The locked packages as wheels for the host's Python, fetched once. Raises BuildError."""
    requirements = ROOT / "requirements" / "run.txt"
    stamp = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"wheels-{stamp}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=folder.parent, ignore_cleanup_errors=True) as work:
        platforms = [f"--platform={kind}_{platform.machine()}" for kind in ("manylinux2014", "manylinux_2_28")]
        command = [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--require-hashes"),
            *("--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms),
            *("--requirement", str(requirements), "--dest", f"{work}/wheels"),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_S)
        except subprocess.SubprocessError as error:
            words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise BuildError(f"the locked packages can't be fetched: {words[-1] if words else error}") from error
        with suppress(OSError):  # another run was first
            Path(work, "wheels").rename(folder)
    return folder
