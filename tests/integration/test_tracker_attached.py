"""The tracker attached at every event of every recorded call: as after a reconnect at just that moment."""

from __future__ import annotations

import pytest
from tests.unit.test_tracker import check_attached, traces


@pytest.mark.parametrize("stale", [0, 1, 4, 8])
@pytest.mark.parametrize("name", sorted(traces()))
def test_attached_at_every_event(name: str, stale: int) -> None:
    check_attached(traces()[name], range, stale=stale)
