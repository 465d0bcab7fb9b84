"""At home on a PBX's host: real calls on a real Asterisk, while what happens to a host in a year is done to the bridge.

Of each call the CRM is told once that it rings and once that it was answered, in that order, whatever came in between.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.asterisk.lab.bridge import ask, fetched
from tests.asterisk.lab.phone import ANSWER as ANSWERS
from tests.needs import missing
from tests.system.asterisk import ANSWER, RING, Line
from tests.system.host import Host
from tests.system.service import (
    CONNECTED,
    IN_A_CALL,
    INSTALL,
    JOURNAL,
    STATUS,
    WATCHDOG,
    Seen,
    crm_is_set,
    drop_in,
    latest_result,
    latest_start,
    now,
    started_since,
    steps,
)

from crmbridge.demo.receiver import Reply

pytestmark = [pytest.mark.needs("systemd"), pytest.mark.needs("asterisk")]

LIMIT_S = 60
PASSWORD = "cat /etc/crmbridge/credentials/http.password"
GROUP = "SupplementaryGroups=asterisk\n"
LEAK = """
import signal
def leak(*_):
    kept = [b"x" * (1 << 20) for _ in range(1024)]
signal.signal(signal.SIGUSR2, leak)
"""


@dataclass(frozen=True)
class End:
    """How the service is ended during a call, and what systemd may call that."""

    what: str
    signal: str
    results: tuple[str, ...]
    answered_meanwhile: bool
    """Whether the call is answered while the service is down, or when it is back."""


ENDS = (
    End("killed", "KILL", ("signal",), answered_meanwhile=False),
    End("asked to end, but not by systemctl", "TERM", (), answered_meanwhile=True),
    End("frozen", "STOP", ("watchdog",), answered_meanwhile=True),
    # Only with control groups of the second kind does systemd know whose kill it was.
    End("out of memory", "USR2", ("oom-kill", "signal"), answered_meanwhile=True),
)


async def installed(host: Host) -> None:
    """Installed as a clean host's administrator does it, and told where the CRM is."""
    said = await host.do(INSTALL.format("one"))
    assert "Asterisk does not know crmbridge yet" in said
    assert "Asterisk does not tell its call records yet" in said
    await host.do(f"set -e\n{steps(said)}")
    await crm_is_set(host)


async def listed(host: Host, caller: str, password: str) -> dict[str, object]:
    """The line of the call list about a caller, who has called once."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            _, answer = await ask(host.network, f"/calls?number={caller}", password=password)
            if answer["result"]:
                break
            await asyncio.sleep(0.05)  # between two looks
    (line,) = answer["result"]
    assert isinstance(line, dict)
    return line


async def test_a_clean_host_and_what_ends_the_bridge_during_a_call(
    asterisk_host: Host, line: Line, seen: Seen, subtests: pytest.Subtests
) -> None:
    host = asterisk_host
    host.add_source("one")
    install = INSTALL.format("one")

    with subtests.test("what is printed is done as it is printed; then all links of the chain hold, and it is started"):
        await installed(host)
        owner = await host.do("stat -c '%a %U:%G' /etc/asterisk/manager.d/crmbridge.conf")
        assert owner == "640 asterisk:asterisk\n"
        assert "crmbridge runs" in await host.do(install)
        await host.until(STATUS.format(CONNECTED))
        assert await host.do("systemctl is-enabled crmbridge; systemctl is-active crmbridge") == "enabled\nactive\n"
        links = json.loads(await host.do("crmbridge check --json"))
        assert all(link["ok"] for link in links), links
    password = (await host.do(PASSWORD)).strip()

    with subtests.test("recordings are Asterisk's; the service reads them once it is in its group, and check knows"):
        await host.do("sed -i 's/^# \\[cdr\\]/[cdr]/; s/^# recordings_dir/recordings_dir/' /etc/crmbridge/config.toml")
        assert "can't be read by this user" in (await host.run("crmbridge check")).output
        await drop_in(host, f"{GROUP}{WATCHDOG}")
        await host.do("crmbridge check && systemctl restart crmbridge")
        await host.until(STATUS.format(CONNECTED))

    with subtests.test("a call is told, listed, and heard"):
        call = await line.rings_and_is_told()
        await host.until(STATUS.format(IN_A_CALL))
        await call.is_answered()
        await call.is_told(RING, ANSWER)
        await asyncio.sleep(1.2)  # they talk: the call list counts whole seconds
        await call.ends()
        about = await listed(host, call.caller, password)
        assert (about["ext"], about["number"], about["incoming"]) == ("777", call.caller, True)
        status, recording = await fetched(host.network, str(about["link"]), password="")
        assert status == 200
        file = f"/var/spool/asterisk/monitor/{about['filename']}"
        assert await host.do(f"stat -c '%a %U:%G %s' {file}") == f"640 asterisk:asterisk {len(recording)}\n"
        assert len(recording) > 8000
        assert await host.do("stat -c '%a %U %s' /var/lib/crmbridge/links.key") == "600 crmbridge 32\n"

    with subtests.test("a click rings the agent, then the number"):
        line.agent.plan, rung = ANSWERS, len(line.agent.calls)
        click = "/dialer/sodialer.php?sExt=777&sNumber=0521111111&ClientId=10"
        async with asyncio.timeout(LIMIT_S):
            assert await ask(host.network, click, password=password) == (200, {"success": True, "result": []})
            agent = await line.agent.called(rung + 1)
            customer = await line.trunk.called(len(line.calls) + 1)
            assert customer.dialed == "0521111111"
            await asyncio.gather(agent.audio.until_hears(customer.audio), customer.audio.until_hears(agent.audio))
            await agent.hang_up()
            await customer.until_over()

    # A leak that begins when it is told to
    site = (await host.do("ls -d /opt/crmbridge/current/lib/python3*/site-packages")).strip()
    await host.do(
        f"cat >{site}/leak.py <<'E'\n{LEAK}\nE\necho 'import leak' >{site}/leak.pth; systemctl restart crmbridge"
    )
    for end in ENDS:
        with subtests.test(f"{end.what} during a call"):
            await host.until(STATUS.format(CONNECTED))
            call = await line.rings_and_is_told()
            await host.until(STATUS.format(IN_A_CALL))
            if end.signal == "USR2" and not await host.limit_memory("crmbridge"):
                missing("no control groups for memory")
            at = now()
            await host.do(f"kill -{end.signal} $(systemctl show crmbridge --property=MainPID --value)")
            if end.answered_meanwhile:
                await call.is_answered()
            back_s = await started_since(host, at, IN_A_CALL)
            if not end.answered_meanwhile:
                await call.is_answered()
            await call.is_told(RING, ANSWER)
            await call.ends()
            result = await latest_result(host) if end.results else "success"
            assert result in end.results or not end.results
            start = await latest_start(host)
            seen(end.what, result=result, back_s=back_s, told=call.told(), ready_s=start.ready_s, ami_s=start.ami_s)

    with subtests.test("where it hung is in the journal"):
        journal = await host.do(JOURNAL)
        assert "Watchdog timeout" in journal
        assert "Fatal Python error: Aborted" in journal

    with subtests.test("settings are followed by a reload during a call, and wrong ones are named and change nothing"):
        was = await host.shown("MainPID", "NRestarts")
        config = "/etc/crmbridge/config.toml"
        call = await line.rings_and_is_told()
        await host.do(f"cp -p {config} /root/; printf '[log]\\nlevel = \"debug\"\\n' >>{config}")
        await host.do("systemctl reload crmbridge")
        await host.until(f"{JOURNAL} | grep -F bridge.reloaded | grep -F log.level")
        await call.is_answered()
        await call.is_told(RING, ANSWER)
        await call.ends()
        await host.do(f"echo 'nonsense = 1' >>{config}")
        call = await line.rings_and_is_told()
        assert (await host.run("systemctl reload crmbridge")).code != 0
        assert "nonsense: there is no such setting" in await host.do(JOURNAL)
        await host.do("kill -HUP $(systemctl show crmbridge --property=MainPID --value)")
        await host.until(STATUS.format(f"{IN_A_CALL}, new settings refused"))
        await call.is_answered()
        await call.is_told(RING, ANSWER)
        await call.ends()
        await host.do(f"cp -p /root/config.toml {config}; systemctl reload crmbridge")
        await host.until(STATUS.format(CONNECTED))
        assert await host.shown("MainPID", "NRestarts") == was

    with subtests.test("of no call was anything told twice, or lost"):
        await host.do("systemctl stop crmbridge")  # whatever else was to be sent has been sent
        assert [call.told() for call in line.calls] == [[RING, ANSWER]] * len(line.calls)
        assert len([one for one in line.crm.targets if "operation=" in one]) == 2 * len(line.calls)


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


async def test_upgrades_restarts_of_asterisk_a_reboot_and_the_removal(
    asterisk_host: Host, line: Line, seen: Seen, subtests: pytest.Subtests
) -> None:
    host = asterisk_host
    host.add_source("one")
    for number, broken in (("0.1.1", ""), ("0.1.2", "    raise RuntimeError('a bug')\n")):
        source = host.add_source(number) / "daemon" / "crmbridge"
        changed(source / "__init__.py", '"0.1.0"', f'"{number}"')
        begins = "    async with AsyncExitStack() as stack:\n"
        changed(source / "app.py", begins, broken + begins)
    await installed(host)
    await host.do("systemctl enable --quiet --now crmbridge")
    await host.until(STATUS.format(CONNECTED))

    with subtests.test("an upgrade that becomes ready is in use, and goes on with a call"):
        before = await host.shown("MainPID")
        call = await line.rings_and_is_told()
        await host.do(INSTALL.format("0.1.1"))
        assert await host.do("crmbridge --version") == "0.1.1\n"
        assert await host.do("systemctl is-active crmbridge") == "active\n"
        assert await host.shown("MainPID") != before
        kept = (await host.do("ls /opt/crmbridge/versions")).split()
        assert [name.partition("-")[0] for name in kept] == ["0.1.0", "0.1.1"]
        await call.is_answered()
        await call.is_told(RING, ANSWER)
        await call.ends()

    with subtests.test("one that does not become ready is taken back, and what was answered meanwhile is told"):
        call = await line.rings_and_is_told()
        upgrade = asyncio.create_task(host.run(INSTALL.format("0.1.2")))
        await host.until(f"{JOURNAL} | grep -F RuntimeError")
        await call.is_answered()
        done = await upgrade
        assert done.code == 1
        assert "RuntimeError" in done.output
        assert "is in use again" in done.output
        assert await host.do("crmbridge --version") == "0.1.1\n"
        await call.is_told(RING, ANSWER)
        await host.until(STATUS.format(IN_A_CALL))
        await call.ends()

    with subtests.test("it does not go down with Asterisk, and comes back to it"):
        was = await host.shown("MainPID", "NRestarts")
        await host.do("systemctl restart asterisk && asterisk -rx 'core waitfullybooted'")
        await host.until(STATUS.format(CONNECTED))
        await line.goes_as_ever()
        at = now()
        await host.do("systemctl stop asterisk")
        await host.until(f"! {STATUS.format(CONNECTED)}")
        seen("Asterisk is stopped", status=(await host.shown("StatusText"))["StatusText"])
        await host.do("systemctl start asterisk && asterisk -rx 'core waitfullybooted'")
        await host.until(STATUS.format(CONNECTED))
        seen("Asterisk is started again", connected_s=now() - at)
        await line.goes_as_ever()
        assert await host.shown("MainPID", "NRestarts") == was

    with subtests.test("after a reboot it comes by itself, after Asterisk, and sends what waited"):
        line.crm.default, told = Reply(status=503), len(line.crm.received)
        call = await line.rings()
        await call.is_answered()
        await host.until("systemctl show crmbridge --property=StatusText --value | grep -F ' 2 waiting'")
        await call.ends()
        await host.do("sync")
        at = now()
        await host.reboot()
        await host.until("systemctl is-active crmbridge")
        line.crm.default = Reply()
        del line.crm.received[told:]  # refused, so not told
        await call.is_told(RING, ANSWER)
        await host.until(STATUS.format(CONNECTED))
        began = await host.shown("InactiveExitTimestampMonotonic")
        there = await host.shown("ActiveEnterTimestampMonotonic", unit="asterisk")
        assert int(there["ActiveEnterTimestampMonotonic"]) <= int(began["InactiveExitTimestampMonotonic"])
        start = await latest_start(host)
        seen("reboot", until_s=now() - at, ready_s=start.ready_s, ami_s=start.ami_s)
        await line.goes_as_ever()

    with subtests.test("booted without Asterisk, it is there; Asterisk may come later"):
        await host.do("systemctl disable --quiet asterisk")
        await host.reboot()
        await host.until("systemctl is-active crmbridge")
        assert (await host.run("systemctl is-active asterisk")).output == "inactive\n"
        await host.do("systemctl enable --quiet --now asterisk && asterisk -rx 'core waitfullybooted'")
        await host.until(STATUS.format(CONNECTED))
        await line.goes_as_ever()

    with subtests.test("of no call was anything told twice, or lost"):
        await host.do("systemctl stop crmbridge")
        assert [call.told() for call in line.calls] == [[RING, ANSWER]] * len(line.calls)

    with subtests.test("removed, it leaves its settings and its state; Asterisk goes on"):
        said = await host.do(f"{INSTALL.format('0.1.1')} --uninstall")
        assert "crmbridge is gone" in said
        find = "find / -xdev \\( -name proc -o -name sys -o -path /sources -o -path /run -o -path /tmp \\) -prune -o"
        left = set((await host.do(f"{find} -iname '*crmbridge*' -print")).split())
        assert left == {"/etc/crmbridge", "/var/lib/crmbridge", "/etc/asterisk/manager.d/crmbridge.conf"}
        call = await line.rings()
        await call.is_answered()
        await call.ends()
        assert call.told() == []
        assert "active" in await host.do("systemctl is-active asterisk")
