"""`make record`: play scenarios on a real Asterisk and keep what AMI said as traces (tests/traces/README.md).

    python -m tests.asterisk.record [--version 22] [SCENARIO…]

Without a version both are recorded, without a scenario all. A scenario whose phones did not see and hear what it
declares is not written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.asterisk.lab import pbx
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem
from tests.asterisk.lab.stage import Recording, Scenario, perform
from tests.asterisk.scenarios import SCENARIOS, reconnects

TRACES = Path(__file__).parents[1] / "traces"
LISTED = Path(__file__).parent / "listed"
"""Of calls in whose middle all channels were listed: true of this PBX alone, so not to be played among others."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make record", description=__doc__)
    parser.add_argument("--version", choices=sorted(RECIPES), action="append")
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO")
    chosen = parser.parse_args()
    if unknown := set(chosen.scenario) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))} (there are: {', '.join(SCENARIOS)})")
    scenarios = [SCENARIOS[name] for name in chosen.scenario or SCENARIOS]
    wrong = 0
    for version in chosen.version or sorted(RECIPES):
        with root_filesystem(version) as root, Network() as network, pbx.running(version, root, network) as where:
            wrong += asyncio.run(_record_all(where, scenarios))
    return 1 if wrong else 0


async def _record_all(where: Pbx, scenarios: list[Scenario]) -> int:
    """Record them one after another; how many were not as declared."""
    wrong = 0
    for one in scenarios:
        if where.version not in one.versions:
            continue
        recording = await perform(where, one)
        trouble = recording.disagreement()
        print(f"{where.version} {one.name}: {trouble or f'{len(recording.raw)} bytes'}", flush=True)
        if trouble:
            wrong += 1
        else:
            write(recording, traces_of(one) / where.version, asterisk=where.release())
    return wrong


def traces_of(one: Scenario) -> Path:
    """Where a scenario's traces are kept, a folder for each version."""
    if one.play.__module__ == reconnects.__name__:
        return LISTED
    return TRACES


def write(recording: Recording, folder: Path, *, asterisk: str) -> None:
    """A trace's two files."""
    one = recording.scenario
    office = one.office
    about = {
        "scenario": one.summary,
        "asterisk": asterisk,
        **({"dialplan": office.dialplan} if office.dialplan else {}),
        "inbound_contexts": office.inbound_contexts,
        "trunks": office.trunks,
        "extensions_regex": office.extensions_regex,
        "endpoints": dict(office.endpoints),
        "expected": [asdict(told) for told in recording.expected],
        "optional": [asdict(told) for told in one.optional],
        "notes": one.notes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{one.name}.ami").write_bytes(recording.raw)
    text = json.dumps(about, ensure_ascii=False, indent=1).removesuffix("\n}")
    # An entry a line would be most of the file.
    timing = json.dumps(recording.timing)
    (folder / f"{one.name}.json").write_text(f'{text},\n "timing": {timing}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
