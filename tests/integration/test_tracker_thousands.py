"""The model PBX of the unit tests, for thousands of calls: it does anything, and knows who hears whom."""

from __future__ import annotations

from hypothesis import settings
from tests.unit.test_tracker_properties import ModelPbx


class LongerModelPbx(ModelPbx):
    """The same, for longer."""


LongerModelPbx.TestCase.settings = settings(max_examples=1500, stateful_step_count=40)
TestThousandsOfCalls = LongerModelPbx.TestCase
