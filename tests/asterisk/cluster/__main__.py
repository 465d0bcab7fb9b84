"""`make faults-cluster`: chosen with ARGS, such as `make faults-cluster ARGS='--faults 10 --seed 3'`.

Prints a table; ends with 1 if a promise was broken, with all that was broken in words.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.asterisk.cluster.faults import cut_off_from_database, database_gone, in_random_order, upgraded
from tests.asterisk.cluster.run import CALM_S, running
from tests.asterisk.cluster.told import Outcome
from tests.asterisk.faults.shown import a_console, show
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem
from tests.asterisk.lab.site import Site, standing

GONE_S = 10.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make faults-cluster", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=30, help="with a majority of the database alive")
    parser.add_argument("--only", action="append", default=[], help="faults whose name holds this; may be given again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-s", type=float, default=5, help="calls each second, on both PBXes together")
    parser.add_argument("--seconds", type=float, help="how long each fault lasts; else three to seven, at random")
    parser.add_argument("--clicks", type=int, default=1000)
    parser.add_argument("--spread", action="store_true", help="each bridge asks another database node first")
    parser.add_argument("--logs", type=Path, help="a folder for what the bridges log")
    parser.add_argument("--no-more", action="store_true", help="these faults, and nothing besides")
    return parser.parse_args()


async def _all(site: Site, chosen: argparse.Namespace) -> Outcome:
    async with running(site, per_s=chosen.per_s, seed=chosen.seed) as (run, outcome):
        await run.calm(CALM_S)
        for fault in in_random_order(site, chosen.faults, run.random, chosen.only):
            await run.suffer(fault, chosen.seconds)
        if not chosen.no_more:
            for host in site.hosts:
                await run.suffer(upgraded(host), CALM_S)
            await run.click_often(chosen.clicks)
            await run.suffer(cut_off_from_database(site, site.hosts[0]), GONE_S)
            await run.suffer(database_gone(site), GONE_S)
        await run.calm(CALM_S)
    return outcome


def _keep_logs(site: Site, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for host in site.hosts:
        (folder / f"{host.machine}.log").write_text("".join(host.lines))


def main() -> int:
    chosen = _arguments()
    with ExitStack() as stack:
        roots = {version: stack.enter_context(root_filesystem(version)) for version in RECIPES}
        site = stack.enter_context(standing(roots, spread=chosen.spread))
        releases = " and ".join(pbx.release() for pbx in site.pbxes.values())
        outcome = asyncio.run(_all(site, chosen))
        if chosen.logs:
            _keep_logs(site, chosen.logs)
    title = f"Two bridges, Asterisk {releases}, three Galera nodes; {chosen.per_s:g} calls/s, seed {chosen.seed}"
    console = a_console()
    show(console, title, outcome)
    console.print(f"{len(outcome.broken)} promises broken" if outcome.broken else "all promises kept")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
