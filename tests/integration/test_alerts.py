"""The alerts that we ship, judged by Prometheus' own tool: their grammar, and when each is raised."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "docs" / "alerts.yml"

pytestmark = pytest.mark.needs("promtool")


def promtool(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    assert "19 rules found" in promtool("check", "rules", str(SHIPPED), folder=tmp_path)


def test_each_alert_is_raised_when_it_must_be_and_not_before(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path / "alerts-under-test.yml")
    cases = shutil.copy(HERE / "alerts.yml", tmp_path)
    assert "SUCCESS" in promtool("test", "rules", str(cases), folder=tmp_path)
    text = SHIPPED.read_text(encoding="utf-8")
    named = {line.split()[-1] for line in text.splitlines() if line.strip().startswith("- alert:")}
    assert all(f"alertname: {name}\n" in Path(cases).read_text(encoding="utf-8") for name in named), "one has no case"
