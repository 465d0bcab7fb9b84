"""`make bench`: how fast the bridge is, section by section. `make bench ARGS='calls --rows 10000000'`.

`--page` writes the tables of docs/performance.md from what was measured last.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.bench import backlog, calls, clicks, intake, many, page, rings, soak
from tests.bench.report import Report, read
from tests.needs import lacking

SECTIONS = ("intake", "rings", "backlog", "clicks", "pbxes", "pair", "calls")
"""What is measured where no section is named."""
BY_NAME = ("soak",)
"""Those that take too long for it."""
PAGE = Path("docs/performance.md")

_MEASURES = {
    "intake": intake.main,
    "rings": rings.main,
    "backlog": backlog.main,
    "clicks": clicks.main,
    "pbxes": many.main_pbxes,
    "pair": many.main_pair,
}
"""What needs to be told nothing."""


def main() -> None:
    """Measure the sections that are named, or all; a status of 1 says that something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS + BY_NAME), help="by default all but soak")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="of the CDR table, one size or more")
    parser.add_argument("--calls", type=int, default=200_000, help="of the soak")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("mariadb", "sqlite"), default="mariadb", help="where the call list is")
    parser.add_argument("--buffer-pool", default="128M", help="MariaDB's innodb_buffer_pool_size; 128M is its default")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="the file for the figures")
    parser.add_argument("--page", action="store_true", help=f"measure nothing: write the tables of {PAGE} from it")
    chosen = parser.parse_args()
    if unknown := set(chosen.sections) - {*SECTIONS, *BY_NAME}:
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    if chosen.page:
        PAGE.write_text(page.written(PAGE.read_text(), read(chosen.json)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end and folders go
    report = Report(chosen.json)
    sections = chosen.sections or SECTIONS
    for name, measure in _MEASURES.items():
        if name in sections:
            measure(report)
            report.write()  # should the rest be cut off
    if "calls" in sections and (reason := lacking("mariadb")):
        report.fail(f"calls: {reason}")
    elif "calls" in sections:
        calls.main(report, chosen.rows, seed=chosen.seed, store=chosen.store, buffer_pool=chosen.buffer_pool)
    if "soak" in sections:
        soak.main(report, chosen.calls)
    report.write()
    report.say(f"figures: {chosen.json}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
