"""What a bench shows on the terminal, and keeps beside it as JSON."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


class Report:
    """Tables as they come, and all figures in one file at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._console = Console(width=120)
        self._kept: dict[str, object] = {}
        self._machine = machine()
        self.failed = False
        self.say(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in self._machine.items()))

    def show(self, table: Table) -> None:
        self._console.print(table)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def fail(self, text: str) -> None:
        """Something could not be measured, or is wrong: the run goes on, and ends with a non-zero status."""
        self.failed = True
        self._console.print(text, style="red", markup=False, highlight=False)

    def keep(self, name: str, figures: object) -> None:
        """A section's figures for the file."""
        self._kept[name] = figures

    def write(self) -> None:
        """The file. What it has of other sections stays, each with what it was measured on."""
        figures: dict[str, Any] = read(self._file)
        measured_on = figures.get("measured_on", {}) | dict.fromkeys(self._kept, self._machine)
        figures |= {**self._kept, "machine": self._machine, "measured_on": measured_on}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(figures, indent=2) + "\n")


def read(file: Path) -> dict[str, Any]:
    """The figures of runs before; none where there were none."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def machine() -> dict[str, object]:
    """What it is measured on; `busy`: with how many other processes at once (the load average of the last minute)."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text(encoding="ascii").split()[1]
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy": round(os.getloadavg()[0], 1),
    }
