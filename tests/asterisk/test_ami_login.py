"""Logins that Asterisk refuses, live: what is said, what lands in Asterisk's log, and that it gets in at last."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.ami import session
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.ours import Heard, held, inside, our_ami, tried
from tests.asterisk.lab.pbx import LAB_SECRET, LAB_USER, SECRET, SHIPPED, SIP, USER, Pbx
from tests.asterisk.lab.phone import NO_ANSWER, Phone
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

from crmbridge.pbx import filters
from crmbridge.pbx.ami import LoginRefusedError, NotConnectedError, Timing

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
        await tried(inside(pbx.network), username=username, secret=secret)
    return len(FAILURE.findall(pbx.log()[before:]))


async def test_one_refused_login_is_at_most_three_failures_to_fail2ban(strict_pbx: Pbx) -> None:
    """docs/decisions.md reckons with this, and tests/unit/test_pauses.py."""
    async with asyncio.timeout(LIMIT_S):
        assert await refused(strict_pbx, USER, "wrong") == 2
        assert await refused(strict_pbx, "nobody", SECRET) == 3
        strict_pbx.configure(USER_FILE, user_file(SECRET, permit="192.0.2.1"))
        strict_pbx.cli("manager reload")
        assert await refused(strict_pbx, USER, SECRET) == 2


async def test_where_one_session_at_a_time_is_allowed_the_second_waits_for_its_turn(strict_pbx: Pbx) -> None:
    """That is no refusal, and nothing that fail2ban counts."""
    strict_pbx.configure(USER_FILE, user_file(SECRET) + "\nallowmultiplelogin = no\n")
    strict_pbx.cli("manager reload")
    before = len(strict_pbx.log())
    heard = Heard()
    ami = our_ami(inside(strict_pbx.network), heard)
    async with asyncio.timeout(LIMIT_S):
        async with session(strict_pbx, USER, SECRET):
            with pytest.raises(NotConnectedError, match="allowmultiplelogin"):
                await tried(inside(strict_pbx.network))
        async with held(ami):
            await heard.until("CoreShowChannelsComplete")
    assert not FAILURE.findall(strict_pbx.log()[before:])


async def test_a_login_while_asterisk_waits_for_its_last_call_to_end_is_not_refused(strict_pbx: Pbx) -> None:
    """`core stop gracefully`: on its way down it answers every action with an error, a login, too."""
    network = strict_pbx.network
    async with (
        asyncio.timeout(LIMIT_S),
        Phone(network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
        session(strict_pbx) as watching,
    ):
        agent.plan = NO_ANSWER
        customer = trunk.dial("0723456777", caller="033004799")
        await (await agent.called()).until_ringing()
        stopping = asyncio.create_task(asyncio.to_thread(strict_pbx.cli, "core stop gracefully"))
        while (await watching.action("Ping"))["Response"] == "Success":
            pass
        with pytest.raises(NotConnectedError, match="shutting down"):
            await tried(inside(network))
        await customer.hang_up()
        with suppress(subprocess.CalledProcessError):
            await stopping


async def test_a_user_who_may_set_a_filter_hears_as_little(strict_pbx: Pbx) -> None:
    """Whoever gave us another user than the one that we ship, one with `write = system`."""
    wanted = ["Newchannel", "Hangup"]
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(LIMIT_S), session(strict_pbx, LAB_USER, LAB_SECRET) as ami:
            answer = await ami.action("Filter", Operation="Add", Filter=filters.pattern(wanted))
            assert answer["Response"] == "Success"
            before = len(ami.frames)
            await perform(strict_pbx, SCENARIOS["did_answered"])
            await ami.until(lambda frame: frame.get("Event") == "Hangup")
            heard = Heard()
            ours = our_ami(inside(strict_pbx.network), heard, username=LAB_USER, secret=LAB_SECRET)
            async with held(ours):
                await heard.until("CoreShowChannelsComplete")
    assert {frame["Event"] for frame in ami.frames[before:] if "Event" in frame} <= {*wanted, *filters.OF_SESSION}
    assert [line["accepted"] for line in logs if line["event"] == "ami.filter"] == [True]


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
