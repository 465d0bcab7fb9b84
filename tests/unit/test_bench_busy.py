"""The calls that the bench plays: recorded ones, each of which must tell the CRM what its scenario says."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.asterisk.scenarios import SCENARIOS
from tests.bench.busy import VERSIONS, WEIGHTS, Reads, caller, recorded
from tests.bench.page import written
from tests.bench.rig import bursts, target


@pytest.mark.parametrize("reads", ["shipped", "all"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_call_tells_what_its_scenario_says_whatever_its_number(version: str, reads: Reads) -> None:
    known = recorded(version, reads)
    assert known.keys() == WEIGHTS.keys()
    for name, template in known.items():
        told = Counter(one for burst in bursts(template.call(42)) for one in burst.targets)
        expected = SCENARIOS[name].expected
        assert told == Counter(target(one.operation, one.ext, caller(42).decode()) for one in expected), name


def test_of_the_page_only_what_was_measured_is_written() -> None:
    page = "a\n<!-- bench: clicks -->\nold\n<!-- end -->\nb\n<!-- bench: rings -->\nold\n<!-- end -->\n"
    machine = dict.fromkeys(("at", "processor", "cores", "kernel", "python", "busy"), "x")
    clicks = {"one client": {"median_ms": 1.0, "p99_ms": 2.0, "per_s": 3.0}}
    new = written(page, {"measured_on": {"clicks": machine}, "clicks": clicks})
    assert "| one client | 1.00 | 2.00 | 3 |\n<!-- end -->\nb\n" in new
    assert new.endswith("<!-- bench: rings -->\nold\n<!-- end -->\n")
