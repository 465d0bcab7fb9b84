"""Logins that Asterisk refuses, live: what is said, what lands in Asterisk's log, and that it gets in at last."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.ours import Heard, held, inside, our_ami
from tests.asterisk.lab.pbx import SECRET, SHIPPED, USER, Pbx

from crmbridge.pbx.ami import LoginRefusedError, Timing

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 60
USER_FILE = "manager.d/crmbridge.conf"
LOGGER = "[general]\n[logfiles]\n/dev/stdout => notice,warning,error,security,verbose\n"

# What fail2ban's filter for Asterisk takes for a failure, of what AMI writes (its filter.d/asterisk.conf).
FAILURE = re.compile(
    r"(?:NOTICE|SECURITY)\[\d+\].*? "
    r"(?:127\.0\.0\.1 (?:failed to authenticate|failed MD5 authentication|tried to authenticate with nonexistent user)"
    r'|SecurityEvent="(?:FailedACL|InvalidAccountID|ChallengeResponseFailed|InvalidPassword)")'
)


@pytest.fixture
def strict_pbx(root: tuple[str, Path]) -> Iterator[Pbx]:
    """An Asterisk that writes down what has to do with security."""
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        pbx.configure("logger.conf", LOGGER)
        pbx.cli("logger reload")
        yield pbx


def user_file(secret: str, permit: str = "127.0.0.1") -> str:
    shipped = (SHIPPED / USER_FILE).read_text().replace(";secret = REPLACE-ME", f"secret = {secret}")
    return shipped.replace("permit = 127.0.0.1", f"permit = {permit}")


async def refused(pbx: Pbx, username: str, secret: str) -> int:
    """How many failures fail2ban sees of one refused login."""
    before = len(pbx.log())
    with pytest.raises(LoginRefusedError, match=r"Authentication failed.*ami\.secret.*permit.*manager_custom\.conf"):
        await our_ami(inside(pbx.network), Heard(), username=username, secret=secret).probe()
    return len(FAILURE.findall(pbx.log()[before:]))


async def test_one_refused_login_is_at_most_three_failures_to_fail2ban(strict_pbx: Pbx) -> None:
    """docs/decisions.md reckons with this, and tests/unit/test_pauses.py."""
    async with asyncio.timeout(LIMIT_S):
        assert await refused(strict_pbx, USER, "wrong") == 2
        assert await refused(strict_pbx, "nobody", SECRET) == 3
        strict_pbx.configure(USER_FILE, user_file(SECRET, permit="192.0.2.1"))
        strict_pbx.cli("manager reload")
        assert await refused(strict_pbx, USER, SECRET) == 2


async def test_who_was_refused_gets_in_when_the_secret_is_mended(strict_pbx: Pbx) -> None:
    strict_pbx.configure(USER_FILE, user_file("another-secret"))
    strict_pbx.cli("manager reload")
    heard = Heard()
    ami = our_ami(inside(strict_pbx.network), heard, timing=Timing(refused_pause_s=0.5))
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(LIMIT_S), held(ami):
            while not ami.refused:  # noqa: ASYNC110  # a refusal is no event that could be waited for
                await asyncio.sleep(0.05)
            assert "Authentication failed" in ami.trouble
            strict_pbx.configure(USER_FILE, user_file(SECRET))
            strict_pbx.cli("manager reload")
            await heard.until("CoreShowChannelsComplete")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["ami.login_refused"]
    (accepted,) = [line for line in logs if line["event"] == "ami.login_accepted"]
    assert accepted["refused_before"] >= 1
