"""The bridge as a service at home on a PBX's host, from the first installation to the last upgrade."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from tests.system.conftest import AMI_SECRET, CRM, CUSTOM, MANAGER
from tests.system.host import Host

from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped

pytestmark = pytest.mark.needs("systemd")

INSTALL = "/sources/{}/systemd/install.sh"
DROP_IN = "/etc/systemd/system/crmbridge.service.d/test.conf"
QUICK = "[Service]\nRestartSec=100ms\nRestartSteps=0\nWatchdogSec=8\n"
"""What a test needn't wait for, and a busy machine keeps."""
STATUS = "systemctl show crmbridge --property=StatusText --value | grep -Fx '{}'"
RESTARTED = "test $(systemctl show crmbridge --property=NRestarts --value) -gt {}"
MOST_EXPOSED = 1.5
PYTHON = "/opt/crmbridge/current/bin/python"
FETCH = """
import base64, pathlib, urllib.request
password = pathlib.Path("/etc/crmbridge/credentials/http.password").read_text().strip()
request = urllib.request.Request("http://127.0.0.1:6560/recordings/a.wav")
request.add_header("Authorization", "Basic " + base64.b64encode(b"crm:" + password.encode()).decode())
with urllib.request.urlopen(request) as answer:
    print(answer.headers["Content-Type"], len(answer.read()))
"""
LEFT = {"/etc/crmbridge", "/var/lib/crmbridge"}


def call() -> Trace:
    (found,) = [one for one in shipped() if one.name.endswith("01_did_to_ext_answered")]
    return found


async def asterisk_is_there(host: Host) -> None:
    await host.do(f"mkdir -p /etc/asterisk; cat >/etc/asterisk/manager.conf <<'E'\n{MANAGER}\nE")
    await host.do(f"cat >/etc/asterisk/manager_custom.conf <<'E'\n{CUSTOM}\nE")


async def crm_is_set(host: Host) -> None:
    url = f"http://{CRM[0]}:{CRM[1]}/webservice.php"
    await host.do(f"sed -i 's#^url = .*#url = \"{url}\"#' /etc/crmbridge/config.toml")


async def quick(host: Host, more: str = "") -> None:
    await host.do(f"mkdir -p $(dirname {DROP_IN}); printf '{QUICK}{more}' >{DROP_IN}; systemctl daemon-reload")


async def test_from_the_first_installation_to_the_removal(
    host: Host, pbx: SimulatedPbx, crm: Receiver, subtests: pytest.Subtests
) -> None:
    await asterisk_is_there(host)
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
    await quick(host)
    everything = "cd /etc/crmbridge; sha256sum config.toml credentials/*"
    before = await host.do(everything)
    with subtests.test("a second time, it changes nothing and starts what is ready to start"):
        said = await host.do(install)
        assert "crmbridge runs" in said
        assert "building" not in said
        assert await host.do(everything) == before
        assert await host.do("systemctl is-enabled crmbridge; systemctl is-active crmbridge") == "enabled\nactive\n"

    with subtests.test("systemctl status shows how it stands"):
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))
        assert 'Status: "AMI connected, 0 calls, 0 waiting"' in await host.do("systemctl status --no-pager crmbridge")

    with subtests.test("root's commands see what the service sees, and leave it no file that it can't open"):
        assert json.loads(await host.do("crmbridge outbox list --json")) == []
        links = json.loads(await host.do("crmbridge check --json"))
        assert all(link["ok"] for link in links), links
        assert await host.do("find /var/lib/crmbridge -not -user crmbridge") == ""
        assert (await host.run("crmbridge outbox retry 1")).code == 1

    with subtests.test("killed, it is started again"):
        was = await host.shown("MainPID", "NRestarts")
        await host.do(f"kill -KILL {was['MainPID']}")
        await host.until(RESTARTED.format(was["NRestarts"]))
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))

    with subtests.test("hung, it is ended by the watchdog, says where it hung, and is started again"):
        was = await host.shown("MainPID", "NRestarts")
        await host.do(f"kill -STOP {was['MainPID']}")
        await host.until(RESTARTED.format(was["NRestarts"]))
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))
        journal = await host.do("journalctl --unit=crmbridge --output=cat --no-pager")
        assert "Watchdog timeout" in journal
        assert "Fatal Python error: Aborted" in journal

    with subtests.test("a stop finishes what is in flight, and nothing is told twice"):
        before_call = len(crm.targets)  # `crmbridge check` has asked the CRM for nothing
        answer = asyncio.Event()
        crm.default = Reply(hold=answer)
        await pbx.play(call(), speed=10)
        await crm.wait_for(before_call + 1)
        stop = asyncio.create_task(host.do("systemctl stop crmbridge"))
        await host.until("journalctl --unit=crmbridge --output=cat --no-pager | grep -F bridge.stopping")
        answer.set()
        await stop
        assert await host.shown("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
        crm.default = Reply()
        await host.do("systemctl start crmbridge")
        await crm.wait_for(before_call + 2)
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))
        assert [one["operation"] for one in crm.received[before_call:]] == ["incomingCall", "incomingCallAnswered"]

    with subtests.test("files of Asterisk's group can be read, once the service is in it"):
        await host.do("groupadd asterisk; install -m 0640 -g asterisk /dev/null /srv/recording.wav")
        reads = "ExecStartPre=/bin/test -r /srv/recording.wav\n"
        await quick(host, reads)
        assert (await host.run("systemctl restart crmbridge")).code != 0
        await host.do("install -d -m 0750 -g asterisk /srv/monitor; head -c 1000 /dev/zero >/srv/monitor/a.wav")
        await host.do("chgrp asterisk /srv/monitor/a.wav; chmod 0640 /srv/monitor/a.wav")
        folder = "Environment=CRMBRIDGE_CDR__RECORDINGS_DIR=/srv/monitor\n"
        await quick(host, f"SupplementaryGroups=asterisk\n{folder}{reads}")
        await host.do("systemctl restart crmbridge")
        assert await host.do(f"{PYTHON} -c '{FETCH}'") == "audio/wav 1000\n"
        assert await host.do("stat -c '%a %U %s' /var/lib/crmbridge/links.key") == "600 crmbridge 32\n"
        await quick(host)

    with subtests.test("new settings are followed by a reload, and wrong ones named by it, without a restart"):
        was = await host.shown("MainPID", "NRestarts")
        await host.do(
            "cp -p /etc/crmbridge/config.toml /root/; printf '[log]\nlevel = \"debug\"\n' >>/etc/crmbridge/config.toml"
        )
        await host.do("systemctl reload crmbridge")
        await host.until(
            "journalctl --unit=crmbridge --output=cat --no-pager | grep -F bridge.reloaded | grep -F log.level"
        )
        await host.do("echo 'nonsense = 1' >>/etc/crmbridge/config.toml")
        assert (await host.run("systemctl reload crmbridge")).code != 0
        assert "nonsense: there is no such setting" in await host.do(
            "journalctl --unit=crmbridge --output=cat --no-pager"
        )
        assert await host.shown("MainPID", "NRestarts") == was
        await host.do("kill -HUP $(systemctl show crmbridge --property=MainPID --value)")
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting, new settings refused"))
        await host.do("cp -p /root/config.toml /etc/crmbridge/; systemctl reload crmbridge")
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))

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
        await host.do(f"rm -r $(dirname {DROP_IN}); {install} --uninstall")
        find = "find / -xdev ( -name proc -o -name sys -o -name sources -o -name run -o -name tmp ) -prune -o"
        find = find.replace("(", "\\(").replace(")", "\\)")
        left = set((await host.do(f"{find} -iname '*crmbridge*' -print")).split())
        assert left == LEFT
        assert (await host.run("systemctl cat crmbridge")).code != 0
        assert await host.do("ls /var/lib/crmbridge | grep outbox.db$") == "outbox.db\n"
        await host.do(f"{install} --uninstall --purge")
        assert await host.do(f"{find} -iname '*crmbridge*' -print") == ""
        assert (await host.run("getent passwd crmbridge")).code != 0


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


async def test_an_upgrade_and_one_that_is_taken_back(
    host: Host,
    pbx: SimulatedPbx,  # noqa: ARG001  # is there
    crm: Receiver,  # noqa: ARG001
    subtests: pytest.Subtests,
) -> None:
    await host.do("mkdir -p /etc/asterisk; printf '[general]\\nport=5039\\n' >/etc/asterisk/manager.conf")
    host.add_source("one")
    for number, broken in (("0.1.1", ""), ("0.1.2", "    raise RuntimeError('a bug')\n")):
        source = host.add_source(number) / "daemon" / "crmbridge"
        changed(source / "__init__.py", '"0.1.0"', f'"{number}"')
        begins = "    async with AsyncExitStack() as stack:\n"
        changed(source / "app.py", begins, broken + begins)

    with subtests.test("an Asterisk that does not know us yet: what to do is printed, and does it"):
        said = await host.do(INSTALL.format("one"))
        steps = [line for line in said.splitlines() if re.match(r"  [a-z]", line) and "asterisk -rx" not in line]
        await host.do("\n".join(steps))
        secret = (await host.do("cat /etc/crmbridge/credentials/ami.secret")).strip()
        assert f"\nsecret = {secret}\n" in await host.do("cat /etc/asterisk/manager.d/crmbridge.conf")
        assert "manager.d/" in await host.do("cat /etc/asterisk/manager.conf")
        again = await host.do(INSTALL.format("one"))
        assert "asterisk -rx" not in again

    await host.do(f"printf {AMI_SECRET} >/etc/crmbridge/credentials/ami.secret")
    await crm_is_set(host)
    await quick(host)
    await host.do("systemctl enable --now crmbridge")

    with subtests.test("an upgrade that becomes ready is in use"):
        before = await host.shown("MainPID")
        await host.do(INSTALL.format("0.1.1"))
        assert await host.do("crmbridge --version") == "0.1.1\n"
        assert await host.do("systemctl is-active crmbridge") == "active\n"
        assert await host.shown("MainPID") != before
        kept = (await host.do("ls /opt/crmbridge/versions")).split()
        assert [name.partition("-")[0] for name in kept] == ["0.1.0", "0.1.1"]

    with subtests.test("an upgrade that does not become ready is taken back"):
        done = await host.run(INSTALL.format("0.1.2"))
        assert done.code == 1
        assert "RuntimeError" in done.output
        assert "is in use again" in done.output
        assert await host.do("crmbridge --version") == "0.1.1\n"
        await host.until(STATUS.format("AMI connected, 0 calls, 0 waiting"))
