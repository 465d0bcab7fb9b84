"""Kinds of calls, each a function that says what people do and a declaration of what the CRM must be told of it.

To add one: write the function in the module of its family (or a new module, named here), see it agree on both versions
(`make test TESTS=tests/asterisk/test_scenarios.py ARGS='-k NAME'`), and record it (`make record ARGS=NAME`): the trace
and the call records are kept both.
"""

from tests.asterisk.lab.stage import SCENARIOS
from tests.asterisk.scenarios import (
    chan_sip,
    clicks,
    conferences,
    devices,
    followme,
    forwards,
    freepbx,
    groups,
    inbound,
    inside,
    local,
    numbers,
    parking,
    pickups,
    queues,
    reconnects,
    transfers,
    waiting,
)

__all__ = [
    "SCENARIOS",
    "chan_sip",
    "clicks",
    "conferences",
    "devices",
    "followme",
    "forwards",
    "freepbx",
    "groups",
    "inbound",
    "inside",
    "local",
    "numbers",
    "parking",
    "pickups",
    "queues",
    "reconnects",
    "transfers",
    "waiting",
]
