"""Which write classes a user has besides those that we need, from what Asterisk lists."""

from __future__ import annotations

import pytest

from crmbridge.checks.rights import _needless
from crmbridge.pbx.visit import allowed

OURS = {
    "Response": "Success",
    "Ping": "Keepalive command.  (Priv: <none>)",
    "Originate": "Originate a call.  (Priv: originate,all)",
    "Getvar": "Gets a channel variable or function value.  (Priv: call,reporting,all)",
    "ShowDialPlan": "Show dialplan contexts and extensions  (Priv: config,reporting,all)",
}
HANGUP = {"Hangup": "Hangup channel.  (Priv: system,call,all)"}
RELOAD = {"Reload": "Send a reload event.  (Priv: system,config,all)"}
REDIRECT = {"Redirect": "Redirect (transfer) a call.  (Priv: call,all)"}
DOOR = {"OpenDoor": "Of some module of one's own.  (Priv: hookresponse,all)"}


@pytest.mark.parametrize(
    ("more", "needless"),
    [
        ({}, []),
        (REDIRECT, ["call"]),
        (REDIRECT | HANGUP, ["call"]),
        (HANGUP, ["system", "call"]),
        (REDIRECT | HANGUP | RELOAD, ["system", "config", "call"]),
        (DOOR, ["hookresponse"]),
    ],
)
def test_needless(more: dict[str, str], needless: list[str]) -> None:
    assert _needless(allowed(OURS | more)) == needless
