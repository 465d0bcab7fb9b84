"""`make faults`: chosen with ARGS, such as `make faults ARGS='--only ami --seed 3'`.

Prints a table for each part; ends with 1 if a promise was broken, with all that was broken in words.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.asterisk.faults.crm import misbehaviours
from tests.asterisk.faults.crm_cases import CASES, CLOCK_CASES, DISK_CASES
from tests.asterisk.faults.cuts import cuts
from tests.asterisk.faults.database_faults import FAULTS
from tests.asterisk.faults.databases import databases
from tests.asterisk.faults.kills import kills
from tests.asterisk.faults.restarts import restarts
from tests.asterisk.faults.set_clock import library
from tests.asterisk.faults.shown import Result, a_console, show
from tests.asterisk.faults.small_disk import small_disk
from tests.asterisk.faults.surroundings import Place, certificates
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem

SHORT_S, FULL_S = 10.0, 120.0
"""Of a fault of the database."""


Part = Callable[[Pbx, Path, argparse.Namespace], Coroutine[Any, Any, Result]]

LIVE: dict[str, list[tuple[str, Part]]] = {
    "kills": [
        (
            "The bridge is killed",
            lambda pbx, folder, a: kills(pbx, folder, per_s=a.per_s, seconds=a.seconds, times=a.kills, seed=a.seed),
        )
    ],
    "ami": [
        (
            "The connection to Asterisk is cut, frozen, slowed to a trickle",
            lambda pbx, folder, a: cuts(
                pbx, folder, per_s=a.per_s, times=a.cuts, bridges=min(a.bridges, a.cuts), seed=a.seed
            ),
        ),
        (
            "Asterisk is restarted",
            lambda pbx, folder, a: restarts(pbx, folder, per_s=a.per_s, times=a.restarts, seed=a.seed),
        ),
    ],
}
"""Parts that need a live Asterisk."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make faults", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*LIVE, "crm", "clock", "database", "disk"],
        help="this part; may be given again",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--version", choices=sorted(RECIPES), default="22", help="Asterisk's")
    parser.add_argument("--per-s", type=float, default=5, help="calls each second")
    parser.add_argument("--seconds", type=float, default=180, help="kills: how long calls come in")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--cuts", type=int, default=100, help="ami: cuts, freezes and trickles in all")
    parser.add_argument("--bridges", type=int, default=5, help="ami: among so many bridges")
    parser.add_argument("--restarts", type=int, default=5, help="ami: of Asterisk")
    parser.add_argument("--case", action="append", help="of crm, clock, database: whose name holds this; again")
    parser.add_argument("--full", action="store_true", help="crm: ten minutes of outage; database: two of each")
    return parser.parse_args()


def _crm(chosen: argparse.Namespace, say: Callable[[str, Result], None]) -> None:
    """Needs no Asterisk."""
    for name, cases, title in (
        ("crm", CASES, "The CRM misbehaves"),
        ("clock", CLOCK_CASES, "The wall clock is set back and forth by an hour, and the CRM"),
    ):
        if chosen.only and name not in chosen.only:
            continue
        if name == "clock" and library() is None:
            sys.exit("the wall clock can't be set: libfaketime is not installed (apt-get install libfaketime)")
        some = [case for case in cases if not chosen.case or any(part in case.name for part in chosen.case)]
        with TemporaryDirectory(prefix="crmbridge-faults-") as folder, Network() as network:
            made = certificates(Path(folder))
            result = asyncio.run(misbehaviours(Place(network), Path(folder), made, some, full=chosen.full))
            say(f"{title} (a recorded call of Asterisk 22, each time of another caller)", result)


def _database(chosen: argparse.Namespace, say: Callable[[str, Result], None]) -> None:
    """Needs no Asterisk."""
    if chosen.only and "database" not in chosen.only:
        return
    names = [name for name in FAULTS if not chosen.case or any(part in name for part in chosen.case)]
    with TemporaryDirectory(prefix="crmbridge-faults-") as folder:
        result = asyncio.run(databases(Path(folder), names, lasts_s=FULL_S if chosen.full else SHORT_S))
        say(
            "The database of CDR table and call list (a recorded call of Asterisk 22, each time of another caller)",
            result,
        )


def _disk(chosen: argparse.Namespace, say: Callable[[str, Result], None]) -> None:
    """Last of all: this process stays in a mount namespace of its own."""
    if chosen.only and "disk" not in chosen.only:
        return
    with TemporaryDirectory(prefix="crmbridge-faults-") as folder, Network() as network, small_disk(Path(folder)):
        made = certificates(Path(folder))
        work = misbehaviours(Place(network), Path(folder), made, DISK_CASES, stopping=False)
        say("The disk of the state folder is full, and the CRM", asyncio.run(work))


def _live(chosen: argparse.Namespace, say: Callable[[str, Result], None]) -> None:
    parts = [part for name in LIVE if not chosen.only or name in chosen.only for part in LIVE[name]]
    if not parts:
        return
    with (
        root_filesystem(chosen.version) as root,
        Network() as network,
        lab_pbx.running(chosen.version, root, network) as where,
    ):
        about = f"Asterisk {where.release()}, {chosen.per_s:g} calls/s, seed {chosen.seed}"
        for title, part in parts:
            with TemporaryDirectory(prefix="crmbridge-faults-") as folder:
                say(f"{title} ({about})", asyncio.run(part(where, Path(folder), chosen)))


def main() -> int:
    chosen = _arguments()
    console = a_console()
    broken: list[str] = []

    def say(title: str, result: Result) -> None:
        show(console, title, result)
        broken.extend(result.broken)

    _live(chosen, say)
    _crm(chosen, say)
    _database(chosen, say)
    _disk(chosen, say)
    console.print(f"{len(broken)} promises broken" if broken else "all promises kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
