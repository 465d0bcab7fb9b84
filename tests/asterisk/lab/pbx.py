"""One real Asterisk, in namespaces of its own, on top of a root filesystem that it can't alter.

What it writes goes to memory and is gone with it. It is killed when this process dies, and its mounts go with it.
The configuration is the lab's (`conf/`), and the files that we ship (`asterisk-conf/vanilla/`) as they are, but for the
secret that an administrator has to put in.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tests.asterisk.lab.network import Network
from tests.asterisk.lab.readiness import says_ready

HERE = Path(__file__).parent
SHIPPED = HERE.parents[2] / "asterisk-conf" / "vanilla"
AMI = ("127.0.0.1", 5038)
SIP = ("127.0.0.1", 5060)
USER, SECRET = "crmbridge", "lab-0f1e2d3c4b5a"
LAB_USER, LAB_SECRET = "lab", "lab"
RECORDER, RECORDER_SECRET = "recorder", "recorder"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10


class PbxError(Exception):
    """Asterisk did not start; the message ends with its own last lines."""


class Pbx:
    """A running Asterisk."""

    def __init__(self, version: str, network: Network, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.version = version
        """Its major version, as the root filesystem's."""
        self.network = network
        self._process = process
        self._output = output
        self._release = ""

    def log(self) -> str:
        """All that it has said on its console."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def cli(self, command: str) -> str:
        """What `asterisk -rx` answers. Raises CalledProcessError, TimeoutExpired."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd"]
        asterisk = ["/usr/sbin/asterisk", "-rx", command]
        done = subprocess.run([*inside, *asterisk], check=True, capture_output=True, text=True, timeout=20)
        return done.stdout

    def configure(self, name: str, text: str) -> None:
        """Write a file of /etc/asterisk, as its administrator would; Asterisk reads it when told to."""
        (Path(f"/proc/{self.pid}/root/etc/asterisk") / name).write_text(text)

    def release(self) -> str:
        """Its version, such as 22.10.1."""
        if not self._release:
            told = self.cli("core show version")
            found = re.search(r"Asterisk ([\d.]+)", told)
            if found is None:
                raise PbxError(f"no version in {told!r}")
            self._release = found[1]
        return self._release

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def is_idle(self) -> bool:
        """Whether it has no channels."""
        return "!" not in self.cli("core show channels concise")  # what stands between a channel's columns

    def stop(self) -> None:
        """End it, at once if it doesn't end by itself."""
        if self.is_running:
            with suppress(ValueError, ProcessLookupError):  # it may be about to end by itself
                os.kill(self.pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """Asterisk's own process, the only child of the `unshare` that we started."""
        process = self._process.pid
        return int(Path(f"/proc/{process}/task/{process}/children").read_text())


@contextmanager
def running(version: str, root: Path, network: Network, *, shipped: Path | None = SHIPPED) -> Iterator[Pbx]:
    """Asterisk, booted and ready for calls; it is ended at the end. Raises PbxError.

    `shipped`: the folder of files that are ours, None to leave the PBX as it is before we come.
    """
    with tempfile.TemporaryFile() as output, _ready_socket(network) as ready:
        process = subprocess.Popen(
            network.command(
                "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL", "--", str(HERE / "start-pbx")
            ),
            env={
                "PATH": os.environ["PATH"],
                "ROOT": str(root),
                "CONF": " ".join(map(str, filter(None, [HERE / "conf", shipped]))),
                "SECRET": SECRET,
                "NOTIFY_SOCKET": f"@{_READY}",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        pbx = Pbx(version, network, process, output)
        try:
            if not says_ready(process, ready, timeout_s=START_TIMEOUT_S):
                raise PbxError(f"Asterisk {version} did not start:\n{pbx.log()[-3000:]}")
            yield pbx
        finally:
            pbx.stop()


_READY = "crmbridge-lab-ready"


@contextmanager
def _ready_socket(network: Network) -> Iterator[socket.socket]:
    """Where Asterisk says that it has booted, as it would to systemd. Its name is seen in its network only."""
    with network.new_socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(f"\0{_READY}")
        yield ready
