"""The tracker attached at every event of every recorded call: as after a reconnect at just that moment."""

from __future__ import annotations

import pytest
from tests.unit.test_tracker import ATTACHED_WRONG, check_attached, traces


@pytest.mark.parametrize("stale", [0, 1, 4, 8])
@pytest.mark.parametrize("name", sorted(set(traces()) - set(ATTACHED_WRONG)))
def test_attached_at_every_event(name: str, stale: int) -> None:
    check_attached(traces()[name], range, stale=stale)


@pytest.mark.xfail(strict=True, reason="a dial that was not seen is made up for inbound calls only")
@pytest.mark.parametrize("name", ATTACHED_WRONG)
def test_attached_is_not_right_yet(name: str) -> None:
    for stale in (0, 1, 4, 8):
        check_attached(traces()[name], range, stale=stale)
