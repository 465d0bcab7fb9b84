"""AMI over TLS, live: whose certificate is right is talked to, and all others are told what to do."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.bridge import COMMAND, CRM, RING, configured, started
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.ours import InNetwork, tried
from tests.asterisk.lab.pbx import AMI, SIP, Pbx
from tests.asterisk.lab.phone import NO_ANSWER, Phone

from crmbridge.demo.receiver import Receiver
from crmbridge.pbx.ami import PASSING, Address, Timing, explain

pytestmark = pytest.mark.needs("asterisk", "openssl")

LIMIT_S = 60
TLS = ("127.0.0.1", 5039)
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
GENERAL = """
[general]
enabled = yes
port = 5038
bindaddr = 127.0.0.1
tlsenable = yes
tlsbindaddr = 127.0.0.1:5039
tlscertfile = /etc/asterisk/ami.crt
tlsprivatekey = /etc/asterisk/ami.key
#include "manager.d/*.conf"
"""


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = folder / f"{name}.key"
        self.certificate = folder / f"{name}.crt"
        self._openssl("req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}")

    def issue(self, name: str, *, days: int = 2) -> tuple[str, str]:
        """A certificate for a name (`IP:127.0.0.1`) and its key."""
        key, request, certificate, more = (self._folder / f"issued.{end}" for end in ("key", "csr", "crt", "ext"))
        more.write_text(f"subjectAltName = {name}\n")
        self._openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", "/CN=pbx")
        issuer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        self._openssl(
            "x509", "-req", "-in", request, *issuer, "-days", str(days), "-extfile", more, "-out", certificate
        )
        return certificate.read_text(), key.read_text()

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "lab")


@pytest.fixture
def tls_pbx(root: tuple[str, Path], authority: Authority) -> Iterator[Pbx]:
    """An Asterisk that speaks TLS on another port, with a certificate that is right."""
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        take(pbx, *authority.issue("IP:127.0.0.1"))
        yield pbx


def take(pbx: Pbx, certificate: str, key: str) -> None:
    """Give it a certificate, as an administrator would."""
    pbx.configure("ami.crt", certificate)
    pbx.configure("ami.key", key)
    pbx.configure("manager.conf", GENERAL)
    pbx.cli("module reload manager")


async def trouble(address: Address) -> str:
    """What an administrator is told who tries this."""
    async with asyncio.timeout(LIMIT_S):
        try:
            await tried(address, timing=Timing(connect_s=2))
        except PASSING as error:
            return explain(error)
        return "none"


async def test_the_bridge_works_over_tls(tls_pbx: Pbx, authority: Authority, tmp_path: Path) -> None:
    network = tls_pbx.network
    env = {"CRMBRIDGE_AMI__TLS": "true", "CRMBRIDGE_AMI__CA_FILE": str(authority.certificate)}
    command = network.command(COMMAND, "run", "--config", str(configured(tmp_path, ami=TLS)))
    async with (
        asyncio.timeout(LIMIT_S),
        Receiver() as crm,
        Phone(network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
    ):
        await crm.start(sock=network.bound(CRM))
        agent.plan = NO_ANSWER
        customer = trunk.dial("0723456777", caller="033004799")
        ringing = await agent.called()
        await ringing.until_ringing()
        async with started(command, env):
            await crm.wait_for(1)
            await customer.hang_up()
            await ringing.until_over()
        assert crm.targets == [RING]


async def test_certificates_that_are_not_right_are_refused(tls_pbx: Pbx, authority: Authority, tmp_path: Path) -> None:
    address = InNetwork(*TLS, tls=True, ca_file=authority.certificate, network=tls_pbx.network)
    assert await trouble(address) == "none"

    told = await trouble(replace(address, ca_file=Authority(tmp_path, "another").certificate))
    assert "certificate is not accepted" in told
    assert "ami.ca_file" in told
    assert "ami.ca_file" in await trouble(replace(address, ca_file=None)), "whom the system knows"

    take(tls_pbx, *authority.issue("DNS:pbx.example"))
    told = await trouble(address)
    assert "127.0.0.1" in told
    assert "ami.host" in told

    take(tls_pbx, *authority.issue("IP:127.0.0.1", days=-1))
    told = await trouble(address)
    assert "has expired" in told
    assert "Renew" in told

    take(tls_pbx, *authority.issue("IP:127.0.0.1"))
    assert await trouble(address) == "none", "a renewed one is taken as soon as Asterisk has it"

    for file, words in (("none.pem", "can't be read"), ("empty.pem", "holds no certificate")):
        (tmp_path / "empty.pem").write_text("")
        assert words in await trouble(replace(address, ca_file=tmp_path / file))


async def test_the_wrong_port_is_told_and_nothing_hangs(tls_pbx: Pbx, authority: Authority, tmp_path: Path) -> None:
    plain_to_tls = InNetwork(*TLS, network=tls_pbx.network)
    told = await trouble(plain_to_tls)
    assert "ami.tls = true" in told
    tls_to_plain = InNetwork(*AMI, tls=True, ca_file=authority.certificate, network=tls_pbx.network)
    told = await trouble(tls_to_plain)
    assert "no TLS is spoken on this port" in told
    assert "5039" in told

    check = [COMMAND, "check", "--json", "--config", str(configured(tmp_path, ami=TLS))]
    process = await asyncio.create_subprocess_exec(*tls_pbx.network.command(*check), stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    (link,) = [link for link in json.loads(output) if link["link"] == "AMI"]
    assert not link["ok"]
    assert "ami.tls = true" in link["found"]
