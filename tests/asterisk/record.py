"""`make record`: play scenarios on a real Asterisk and keep what AMI said as traces (tests/traces/README.md), and the
call records that Asterisk left in the database (tests/records/README.md).

    python -m tests.asterisk.record [--version 22] [--only traces|records] [SCENARIO…]

Without a version both are recorded, without a scenario all. Each is played twice: for the records people talk longer,
since a record counts whole seconds. A scenario whose phones did not see and hear what it declares is not written, and
the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.asterisk.lab import mariadb, pbx
from tests.asterisk.lab.cdr import CdrTable, Row, attached, recordings
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem
from tests.asterisk.lab.stage import Recording, Scenario, perform
from tests.asterisk.scenarios import SCENARIOS, reconnects

TRACES = Path(__file__).parents[1] / "traces"
RECORDS = Path(__file__).parents[1] / "records"
TALK_S = 1.4
"""Seconds that people talk at least, for the records."""
LISTED = Path(__file__).parent / "listed"
"""Of calls in whose middle all channels were listed: true of this PBX alone, so not to be played among others."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make record", description=__doc__)
    parser.add_argument("--version", choices=sorted(RECIPES), action="append")
    parser.add_argument("--only", choices=("traces", "records"))
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO")
    chosen = parser.parse_args()
    if unknown := set(chosen.scenario) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))} (there are: {', '.join(SCENARIOS)})")
    scenarios = [SCENARIOS[name] for name in chosen.scenario or SCENARIOS]
    wrong = 0
    for version in chosen.version or sorted(RECIPES):
        with root_filesystem(version) as root, Network() as network, pbx.running(version, root, network) as where:
            possible = [one for one in scenarios if version in one.versions]
            if chosen.only != "records":
                wrong += asyncio.run(_record_traces(where, possible))
            if chosen.only != "traces":
                with Network() as its_network, mariadb.running(its_network) as database:
                    wrong += asyncio.run(_record_records(where, attached(where, database), possible))
    return 1 if wrong else 0


async def _record_traces(where: Pbx, scenarios: list[Scenario]) -> int:
    """Record what AMI says, one after another; how many were not as declared."""
    wrong = 0
    for one in scenarios:
        recording = await perform(where, one)
        trouble = recording.disagreement()
        print(f"{where.version} {one.name}: {trouble or f'{len(recording.raw)} bytes'}", flush=True)
        if trouble:
            wrong += 1
        else:
            write(recording, traces_of(one) / where.version, asterisk=where.release())
    return wrong


async def _record_records(where: Pbx, table: CdrTable, scenarios: list[Scenario]) -> int:
    """Record the call records, one after another; how many were not as declared."""
    wrong = 0
    for one in scenarios:
        table.clear()
        recorded_before = set(recordings(where))
        try:
            recording = await perform(where, one, talk_s=TALK_S)
            rows = await table.rows_of(recording.records)
        except TimeoutError as error:
            print(f"{where.version} {one.name}: {error!r}", flush=True)
            where.cli("channel request hangup all")
            wrong += 1
            continue
        trouble = recording.disagreement()
        print(f"{where.version} {one.name}: {trouble or f'{len(rows)} rows'}", flush=True)
        if trouble:
            wrong += 1
        else:
            files = sorted(set(recordings(where)) - recorded_before)
            write_records(recording, rows, files, RECORDS / where.version, asterisk=where.release())
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


def write_records(recording: Recording, rows: list[Row], files: list[str], folder: Path, *, asterisk: str) -> None:
    """The file of a scenario's call records (tests/records/README.md): a row a line, without its empty columns."""
    one, office = recording.scenario, recording.scenario.office
    about = {
        "scenario": one.summary,
        "asterisk": asterisk,
        "trunks": office.trunks,
        "extensions_regex": office.extensions_regex,
        "endpoints": dict(office.endpoints),
        "recordings": files,
    }
    text = json.dumps(about, ensure_ascii=False, indent=1).removesuffix("\n}")
    text += f',\n "lines": {_a_line_each([asdict(line) for line in recording.declared()])}'
    if one.read_as:
        text += f',\n "read_as": {_a_line_each([asdict(line) for line in recording.readable()])}'
        text += f',\n "because": {json.dumps(one.read_as.because)}'
    text += f',\n "rows": {_a_line_each([{name: value for name, value in row.items() if value} for row in rows])}\n}}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{one.name}.json").write_text(text, encoding="utf-8")


def _a_line_each(items: Sequence[Mapping[str, object]]) -> str:
    return "[" + ",".join(f"\n  {json.dumps(item, ensure_ascii=False)}" for item in items) + "\n ]"


if __name__ == "__main__":
    sys.exit(main())
