"""The harness's CRM: what the bridge told it, as the judge takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

from tests.asterisk.faults.judge import Request

from crmbridge.demo.receiver import Received


def heard(received: Iterable[Received], began: float) -> list[Request]:
    """Requests that were all taken, in seconds since `began` on the event loop's clock."""
    shift = asyncio.get_running_loop().time() - datetime.now(UTC).timestamp() - began
    return [
        Request(one["sNumber"], one["operation"], one.idempotency_key, one.at.timestamp() + shift) for one in received
    ]
