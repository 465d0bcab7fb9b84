"""Whether a service manager listens, and how often it wants to hear from us."""

from __future__ import annotations

import os

import pytest

from crmbridge.systemd import service_manager, watchdog_s


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234"])
def test_without_a_socket_that_we_know_nobody_is_told(address: str | None) -> None:
    assert service_manager({} if address is None else {"NOTIFY_SOCKET": address}) is None


@pytest.mark.parametrize("address", ["/run/systemd/notify", "@abstract"])
def test_a_path_and_an_abstract_name_are_known(address: str) -> None:
    assert service_manager({"NOTIFY_SOCKET": address}) is not None


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_waits_for_this_process(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_s(environment, os.getpid()) == seconds
