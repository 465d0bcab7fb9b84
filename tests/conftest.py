"""For all tests: what they need of the machine, the order of the tiers, and a last line for each tier.

A tier is a folder. `@pytest.mark.needs("asterisk", "sipp")` names what `tests.needs` knows. `tests/run` has several
worker processes (pytest-xdist) share the tests; what `@pytest.mark.alone` marks, a test under load, has the machine to
itself among them.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # tests import one another as tests.…

from tests.needs import LIVE, TIERS, lacking, missing  # noqa: E402  # after the path it needs

# The same examples each time, however busy the machine: what fails fails for a change, not by chance.
hypothesis.settings.register_profile("crmbridge", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("crmbridge")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Among several workers, wait for a test that is alone, or for all others."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    """Hold the room: all together, or one alone. Who waits to be alone holds the door, so that nobody else comes in.

    Both are locks on files that are there anyway; they end with the process that holds them.
    """
    with (HERE / "needs.py").open() as door, (HERE / "conftest.py").open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip (or fail) what this machine can't run, before any fixture is made."""
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            if reason := lacking(need):
                missing(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheapest tier first; within a tier the order stays.

    Live tests wait for timers of Asterisk's and systemd's own, which a machine that is busy for a moment lets run out:
    one that fails is tried once more, on another Asterisk or host, and counted as tried again.
    """
    items.sort(key=lambda item: _rank(item.path))
    for item in items:
        if _tier(item.path) in LIVE:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_finish() -> None:
    """Thousands of tests and their parameters live to the end: no collection of garbage needs to look at them again."""
    gc.collect()
    gc.freeze()


def _rank(path: Path) -> int:
    tier = _tier(path)
    return TIERS.index(tier) if tier in TIERS else len(TIERS)


def _tier(path: Path) -> str:
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else "other"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a tier: what ran, what was skipped, and why."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    for outcome in ("passed", "failed", "error", "rerun", "skipped"):
        for report in terminalreporter.getreports(outcome):
            tier = _tier(terminalreporter.config.rootpath / report.nodeid.partition("::")[0])
            counts[tier][outcome] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                reasons[tier].add(report.longrepr[2].removeprefix("Skipped: "))
            if outcome == "rerun":
                reasons[tier].add(f"tried again: {report.nodeid.rpartition('::')[2]}")
    terminalreporter.section("tiers")
    for tier in sorted(counts, key=lambda tier: _rank(HERE / tier)):
        told = ", ".join(f"{number} {outcome}" for outcome, number in counts[tier].items())
        why = f": {'; '.join(sorted(reasons[tier]))}" if reasons[tier] else ""
        terminalreporter.line(f"{tier:12} {told}{why}")
