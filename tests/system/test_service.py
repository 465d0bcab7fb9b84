"""The service from its installation on a FreePBX to its removal. Asterisk is played, as far as faults need it."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from tests.system.conftest import AMI_SECRET, CUSTOM, MANAGER
from tests.system.host import Host
from tests.system.service import CONNECTED, INSTALL, JOURNAL, STATUS, crm_is_set

from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped

pytestmark = pytest.mark.needs("systemd")

MOST_EXPOSED = 1.5
LEFT = {"/etc/crmbridge", "/var/lib/crmbridge"}


def call() -> Trace:
    (found,) = [one for one in shipped() if one.name.endswith("01_did_to_ext_answered")]
    return found


async def freepbx_is_there(host: Host) -> None:
    await host.do(f"mkdir -p /etc/asterisk; cat >/etc/asterisk/manager.conf <<'E'\n{MANAGER}\nE")
    await host.do(f"cat >/etc/asterisk/manager_custom.conf <<'E'\n{CUSTOM}\nE")


async def test_from_the_first_installation_to_the_removal(
    host: Host, pbx: SimulatedPbx, crm: Receiver, subtests: pytest.Subtests
) -> None:
    await freepbx_is_there(host)
    host.add_source("one")
    install = INSTALL.format("one")

    with subtests.test("installed, with what can be found out, and not started while a link of the chain is broken"):
        said = await host.do(install)
        assert "Mend what says FAIL above" in said
        assert "Asterisk does not know crmbridge yet" not in said
        assert "freepbx/cdr_manager.conf /etc/asterisk/" in said
        config = await host.do("cat /etc/crmbridge/config.toml")
        assert "\nport = 5039\n" in config
        assert '\nchannel = "Local/{ext}@originate-skipvm"\n' in config
        assert await host.do("cat /etc/crmbridge/credentials/ami.secret") == f"{AMI_SECRET}\n"
        assert (await host.run("systemctl is-active crmbridge")).output == "inactive\n"
        modes = await host.do("cd /etc/crmbridge; stat -c '%a %U:%G %n' . config.toml credentials credentials/*")
        assert modes.splitlines() == [
            "750 root:crmbridge .",
            "640 root:crmbridge config.toml",
            "700 root:root credentials",
            "600 root:root credentials/ami.secret",
            "600 root:root credentials/http.password",
        ]

    await crm_is_set(host)
    everything = "cd /etc/crmbridge; sha256sum config.toml credentials/*"
    before = await host.do(everything)
    with subtests.test("a second time, it changes nothing and starts what is ready to start"):
        said = await host.do(install)
        assert "crmbridge runs" in said
        assert "building" not in said
        assert await host.do(everything) == before
        assert await host.do("systemctl is-enabled crmbridge; systemctl is-active crmbridge") == "enabled\nactive\n"

    with subtests.test("systemctl status shows how it stands"):
        await host.until(STATUS.format(CONNECTED))
        assert 'Status: "AMI connected, 0 calls, 0 waiting"' in await host.do("systemctl status --no-pager crmbridge")

    with subtests.test("root's commands see what the service sees, and leave it no file that it can't open"):
        assert json.loads(await host.do("crmbridge outbox list --json")) == []
        links = json.loads(await host.do("crmbridge check --json"))
        assert all(link["ok"] for link in links), links
        assert await host.do("find /var/lib/crmbridge -not -user crmbridge") == ""
        assert (await host.run("crmbridge outbox retry 1")).code == 1

    with subtests.test("a stop finishes what is in flight, and nothing is told twice"):
        before_call = len(crm.targets)  # `crmbridge check` has asked the CRM for nothing
        answer = asyncio.Event()
        crm.default = Reply(hold=answer)
        await pbx.play(call(), speed=10)
        await crm.wait_for(before_call + 1)
        stop = asyncio.create_task(host.do("systemctl stop crmbridge"))
        await host.until(f"{JOURNAL} | grep -F bridge.stopping")
        answer.set()
        await stop
        assert await host.shown("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
        crm.default = Reply()
        await host.do("systemctl start crmbridge")
        await crm.wait_for(before_call + 2)
        await host.until(STATUS.format(CONNECTED))
        assert [one["operation"] for one in crm.received[before_call:]] == ["incomingCall", "incomingCallAnswered"]

    with subtests.test("mistakes in the settings are not tried again"):
        await host.do("systemctl stop crmbridge; cp -p /etc/crmbridge/config.toml /root/")
        await host.do("echo 'nonsense = 1' >>/etc/crmbridge/config.toml")
        assert (await host.run("systemctl start crmbridge")).code != 0
        shown = await host.shown("ExecMainStatus", "ActiveState", "NRestarts")
        assert shown == {"ExecMainStatus": "78", "ActiveState": "failed", "NRestarts": "0"}
        done = await host.run(install)
        assert done.code == 0 or "mend /etc/crmbridge/config.toml" in done.output
        await host.do("cp -p /root/config.toml /etc/crmbridge/; systemctl start crmbridge")

    with subtests.test("the journal has JSON lines, knows which are grave, and has no secrets"):
        wrong = r"GET /calls HTTP/1.0\r\nAuthorization: Basic eDp5\r\n\r\n"
        ask = f"exec 3<>/dev/tcp/127.0.0.1/6560; printf '{wrong}' >&3; cat <&3"
        assert "401 " in await host.do(ask)
        own = await host.do("journalctl --unit=crmbridge _TRANSPORT=stdout --output=cat --no-pager")
        lines = [line for line in own.splitlines() if line.startswith("{")]
        assert {"bridge.started", "ami.connected", "call.rings", "bridge.stopped"} <= {
            json.loads(line)["event"] for line in lines
        }
        grave = await host.do(
            "journalctl --unit=crmbridge _TRANSPORT=stdout --priority=warning --output=cat --no-pager"
        )
        levels = {"warning", "error", "critical"}
        assert [line for line in lines if json.loads(line)["level"] in levels] == [
            line for line in grave.splitlines() if line.startswith("{")
        ]
        assert '"http.login_failed"' in grave
        password = (await host.do("cat /etc/crmbridge/credentials/http.password")).strip()
        whole = await host.do("journalctl --output=json --no-pager")
        assert AMI_SECRET not in whole
        assert len(password) >= 32
        assert password not in whole

    with subtests.test("systemd finds little to harden"):
        judged = await host.do("systemd-analyze security --no-pager crmbridge")
        exposure = re.search(r"exposure level for crmbridge.service: ([\d.]+)", judged)
        assert exposure
        assert float(exposure[1]) <= MOST_EXPOSED
        assert await host.do("systemd-analyze verify crmbridge.service 2>&1 | grep -v 'Unknown key' || true") == ""

    with subtests.test("removed, it leaves its settings and its state; purged, nothing"):
        await host.do(f"{install} --uninstall")
        find = "find / -xdev ( -name proc -o -name sys -o -name sources -o -name run -o -name tmp ) -prune -o"
        find = find.replace("(", "\\(").replace(")", "\\)")
        left = set((await host.do(f"{find} -iname '*crmbridge*' -print")).split())
        assert left == LEFT
        assert (await host.run("systemctl cat crmbridge")).code != 0
        assert await host.do("ls /var/lib/crmbridge | grep outbox.db$") == "outbox.db\n"
        await host.do(f"{install} --uninstall --purge")
        assert await host.do(f"{find} -iname '*crmbridge*' -print") == ""
        assert (await host.run("getent passwd crmbridge")).code != 0
