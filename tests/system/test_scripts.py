"""The scripts that run as root on a PBX's host."""

from __future__ import annotations

import subprocess

import pytest
from tests.system.host import ROOT


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("script", ["install.sh", "crmbridge-wrapper"])
def test_shellcheck_finds_nothing(script: str) -> None:
    command = ["shellcheck", str(ROOT / "systemd" / script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == ""
