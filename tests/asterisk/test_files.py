"""What lies in the repository agrees with itself; needs no PBX."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.asterisk.lab.pbx import SHIPPED
from tests.asterisk.lab.rootfs import RECIPES
from tests.asterisk.record import traces_of
from tests.asterisk.scenarios import SCENARIOS

from crmbridge.demo import traces


@pytest.mark.parametrize(
    ("version", "name"),
    [(version, one.name) for version in sorted(RECIPES) for one in SCENARIOS.values() if version in one.versions],
)
def test_each_scenario_has_its_trace(version: str, name: str) -> None:
    declared = SCENARIOS[name]
    (kept,) = [trace for trace in traces.read(traces_of(declared) / version) if trace.name == name]
    expected = [(one.operation, one.ext, one.number) for one in declared.expected]
    either = [(one.operation, one.ext, one.number) for one in declared.either]
    assert kept.expected in [tuple(expected), *((*expected, one) for one in either)][bool(either) :]
    assert kept.timing[0][0] == 0
    assert kept.timing[-1][0] < len(kept.raw)


def settings(file: Path) -> list[str]:
    lines = (line.partition(";")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize(
    ("freepbx", "vanilla"),
    [("manager_custom.conf", "manager.d/crmbridge.conf"), ("cdr_manager.conf", "cdr_manager.conf")],
)
def test_freepbx_gets_the_same_settings(freepbx: str, vanilla: str) -> None:
    assert settings(SHIPPED.parent / "freepbx" / freepbx) == settings(SHIPPED / vanilla)
