"""Writes the tables of docs/performance.md from the figures of `make bench`: `python -m tests.bench --page`.

Each stands between `<!-- bench: NAME -->` and `<!-- end -->`; what is around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Figures = Mapping[str, Any]
_PLACE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(page: str, figures: Figures) -> str:
    """The page with the tables of those sections that were measured."""

    def table(place: re.Match[str]) -> str:
        name = place[2]
        if name not in figures:
            return place[0]
        return f"{place[1]}{_measured_on(figures['measured_on'][name])}\n\n{_TABLES[name](figures[name])}\n{place[3]}"

    return _PLACE.sub(table, page)


def _measured_on(machine: Figures) -> str:
    return (
        f"*{machine['at']}, {machine['processor']}, {machine['cores']} cores, Linux"
        f" {machine['kernel'].partition('-')[0]}, Python {machine['python']}; {machine['busy']} other processes at work"
        " when it began.*"
    )


def _intake(one: Figures) -> str:
    speeds: Mapping[str, Mapping[str, float]] = one["per_s"]
    stock = {name: kind["panoramisk 1.4"] for name, kind in speeds.items()}
    rows = [
        [rival, *(f"{kind[rival]:,.0f} ({kind[rival] / stock[name]:.1f})" for name, kind in speeds.items())]
        for rival in next(iter(speeds.values()))
    ]
    table = _table(["events a second (times panoramisk)", *(f"Asterisk {name}" for name in speeds)], rows)
    growth = [
        [f"{reads}, {times} times as many events", f"{us:.2f}"]
        for reads, each in one["growth_us"].items()
        for times, us in each.items()
    ]
    growth += [
        [f"shipped, {int(count):,} calls in progress", f"{us:.2f}"] for count, us in one["in_progress_us"].items()
    ]
    return f"{table}\n\n{_table(['how it grows', 'microseconds an event'], growth)}"


def _rings(one: Figures) -> str:
    rows = [["bare aiohttp GET", *(f"{value:.2f}" for value in one["limit_ms"]), "", "", ""]]
    if "disk_ms" in one:
        rows.append(["bare flush of the disk", *(f"{value:.2f}" for value in one["disk_ms"]), "", "", ""])
    for kind in ("simulated", "live"):
        name = f"live Asterisk {one['version']}" if kind == "live" else kind
        rows += [
            [f"{name}, {rate} calls/s", *(f"{value:.2f}" for value in each.values())]
            for rate, each in one[kind].items()
        ]
    columns = [
        "milliseconds",
        "ring: median",
        "99th percentile",
        "answer: median",
        "99th percentile",
        "processor, a call",
    ]
    costs = [
        [f"{int(count):,}", f"{each['cpu_ms']:.2f}", f"{each['kb']:.1f}", f"{each['mb']:.0f}"]
        for count, each in one["costs"].items()
    ]
    of_costs = ["calls in progress", "ms of processor a call", "KB each", "MB of the daemon"]
    return f"{_table(columns, rows)}\n\n{_table(of_costs, costs)}"


def _backlog(one: Figures) -> str:
    rows = [
        ["callbacks that waited", "", f"{one['waiting']:,}"],
        ["from the start of the daemon until it is logged in at the PBX", "", f"{one['ready_s']:.1f} s"],
        ["until all were confirmed", "", f"{one['took_s']:.0f} s"],
        ["confirmed a second", "≥ 1,500", f"{one['per_s']:,.0f}"],
        ["processor, a callback", "", f"{one['cpu_ms']:.2f} ms"],
        ["memory of the daemon", "", f"{one['mb']:.0f} MB"],
        ["a fresh ring meanwhile, median", "", f"{one['fresh_ms']:.1f} ms"],
        ["99th percentile", "≤ 50 ms", f"{one['fresh_p99_ms']:.1f} ms"],
        [f"the longest of {one['fresh']:,}", "", f"{one['fresh_most_ms']:.1f} ms"],
    ]
    return _table(["after an outage", "wanted", "measured"], rows)


def _clicks(one: Figures) -> str:
    rows = [
        [name, f"{each['median_ms']:.2f}", f"{each['p99_ms']:.2f}", f"{each['per_s']:,.0f}"]
        for name, each in one.items()
    ]
    return _table(["milliseconds", "median", "99th percentile", "clicks a second"], rows)


def _pbxes(one: Figures) -> str:
    rows = [
        [count, f"{each['mb']:.0f}", f"{each['idle_percent']:.1f}"]
        + [f"{each[name]:.2f}" for name in ("cpu_ms", "ring_ms", "ring_p99_ms")]
        for count, each in one["by_count"].items()
    ]
    columns = ["PBXes", "MB", "% of a core at rest", "ms of processor a call", "ring: median ms", "99th percentile"]
    return _table(columns, rows)


def _pair(one: Figures) -> str:
    columns = ["", "ring: median ms", "99th percentile", "answer: median ms", "99th percentile"]
    columns += ["ms of processor a call", "commits a call"]
    rows = ([name, *(f"{value:.2f}" for value in each.values())] for name, each in one["bridges"].items())
    claims = ([count, *(f"{value:,.0f}" for value in each.values())] for count, each in one["claims"].items())
    of_claims = ["bridges that claim at once", "claims a second", "write sets a second"]
    return f"{_table(columns, rows)}\n\n{_table(of_claims, claims)}"


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


_TABLES: Mapping[str, Callable[[Figures], str]] = {
    "intake": _intake,
    "rings": _rings,
    "backlog": _backlog,
    "clicks": _clicks,
    "pbxes": _pbxes,
    "pair": _pair,
}
