"""The service on its host: its installation, its settings, and what systemd says of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.asterisk.lab.bridge import CRM
from tests.system.host import Host

INSTALL = "/sources/{}/systemd/install.sh"
DROP_IN = "/etc/systemd/system/crmbridge.service.d/test.conf"
WATCHDOG = "WatchdogSec=8\n"
"""What a test needn't wait for, and a busy machine keeps."""
STATUS = "systemctl show crmbridge --property=StatusText --value | grep -Fx '{}'"
CONNECTED = "AMI connected, 0 calls, 0 waiting"
IN_A_CALL = "AMI connected, 1 call, 0 waiting"
JOURNAL = "journalctl --unit=crmbridge --output=cat --no-pager"
_STARTED = "test $(systemctl show crmbridge --property=ActiveEnterTimestampMonotonic --value) -gt {}"

SEEN = "seen"


async def crm_is_set(host: Host) -> None:
    url = f"http://{CRM[0]}:{CRM[1]}/webservice.php"
    await host.do(f"sed -i 's#^url = .*#url = \"{url}\"#' /etc/crmbridge/config.toml")


async def drop_in(host: Host, settings: str) -> None:
    """Settings of the unit, as `systemctl edit` leaves them; they hold from the next start on."""
    await host.do(f"mkdir -p $(dirname {DROP_IN}); printf '[Service]\\n{settings}' >{DROP_IN}; systemctl daemon-reload")


def steps(said: str) -> str:
    """The commands that install.sh prints for the administrator, as they are printed."""
    return "\n".join(line for line in said.splitlines() if re.match(r"  [a-z]", line))


@dataclass(frozen=True)
class Start:
    """A start of the service, in seconds from when systemd ran it."""

    ready_s: float
    """Until it was active."""
    ami_s: float
    """Until it was connected to Asterisk and logged in."""


async def latest_start(host: Host) -> Start:
    """The latest start, by systemd's own clock."""
    begin, ready, run = "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic", "InvocationID"
    shown = await host.shown(begin, ready, run)
    own = f"journalctl _SYSTEMD_INVOCATION_ID={shown[run]} --output=json --no-pager"
    journal = await host.until(f"{own} | grep -F ami.connected")  # the journal may be behind the status
    connected = min(int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) for line in journal.splitlines())
    since = int(shown[begin])
    return Start((int(shown[ready]) - since) / 1e6, (connected - since) / 1e6)


async def started_since(host: Host, at: float, status: str) -> float:
    """Wait until it was started after an instant of the monotonic clock and stands so; seconds until it was active."""
    await host.until(f"{_STARTED.format(int(at * 1e6))} && {STATUS.format(status)}")
    shown = await host.shown("ActiveEnterTimestampMonotonic")
    return int(shown["ActiveEnterTimestampMonotonic"]) / 1e6 - at


async def latest_result(host: Host) -> str:
    """Why systemd says that it failed the last time."""
    results: list[str] = re.findall(r"Failed with result '([\w-]+)'", await host.do(JOURNAL))
    return results[-1]


def now() -> float:
    """On systemd's clock."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class Seen:
    """What was measured, said at the end of the run: for docs/operations.md."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        """`record` takes a name and a value: pytest's record_property."""
        self._record = record

    def __call__(self, what: str, **figures: object) -> None:
        told = [
            f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        ]
        self._record(SEEN, f"{what}: {', '.join(told)}")
