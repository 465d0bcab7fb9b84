"""What the bridge's process takes of the machine, read from /proc, and what it says when something is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

GROWTH_MIB = 16.0
"""A process that settles in grows by a few MiB; what is left behind at each fault goes beyond this."""
GROWTH_FDS = 8
"""Database connections and requests come and go."""
_UNEXPECTED = {"intake.event_failed", "ami.frame_failed", "intake.overrun", "store.writes_lost", "store.disk_refuses"}


@dataclass
class Resources:
    """Samples of one process, in the order in which they were taken."""

    pid: int
    rss_mib: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Take one now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (rss,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        self.rss_mib.append(int(rss) / 1024)
        self.fds.append(len(os.listdir(f"/proc/{self.pid}/fd")))

    def growing(self) -> list[str]:
        """What has grown since the second sample: before that, the process settles in."""
        settled = min(1, len(self.rss_mib) - 1)
        more, more_fds = self.rss_mib[-1] - self.rss_mib[settled], self.fds[-1] - self.fds[settled]
        grown = [f"memory grew by {more:.1f} MiB: {self.rss()}"] if more > GROWTH_MIB else []
        return grown + ([f"file descriptors grew by {more_fds}: {self.fds}"] if more_fds > GROWTH_FDS else [])

    def rss(self) -> str:
        """All samples of memory, in MiB."""
        return " ".join(f"{one:.1f}" for one in self.rss_mib)


def left_behind(lines: Iterable[str], expected: Collection[str] = ()) -> list[str]:
    """Lines of the bridge's log that tell of something forgotten or not understood.

    `expected`: log events that belong to the fault. asyncio and Python say on standard error, not in JSON, which task
    was never waited for, and which action's answer.
    """
    return [
        f"the bridge says: {line.strip()[:200]}"
        for line in lines
        if not line.startswith("{") or json.loads(line)["event"] in _UNEXPECTED.difference(expected)
    ]
