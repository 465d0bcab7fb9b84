"""A real Asterisk as a service of the host, with the lab's configuration, as it is before crmbridge comes; its calls.

Debian 12 has none: it runs by its own unit in a root filesystem of its own, as its own user, with /etc/asterisk and the
spool where an administrator looks for them.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass

from tests.asterisk.lab.pbx import HERE as LAB
from tests.asterisk.lab.phone import NO_ANSWER, Call, Phone, Plan
from tests.system.host import Host

from crmbridge.demo.receiver import Receiver

RING, ANSWER = "incomingCall", "incomingCallAnswered"
PICK_UP = Plan(ring=None, after_s=0)
LIMIT_S = 60
GROUP = 900
"""Its number on this host, where Asterisk's own root filesystem has one that is taken here."""
RING_S = 90
"""How long a phone is let ring: longer than an upgrade takes."""

_UNIT = """
[Service]
RootDirectory=/srv/asterisk
MountAPIVFS=yes
BindPaths=/etc/asterisk /var/spool/asterisk
UMask=0027
"""
_SET_UP = f"""
set -e
root=/srv/asterisk
groupadd --gid {GROUP} asterisk
useradd --uid $(chroot $root id -u asterisk) --gid asterisk --home-dir /var/lib/asterisk --no-create-home asterisk
chroot $root groupmod --gid {GROUP} asterisk
chgrp -R {GROUP} $root/var/{{lib,log}}/asterisk
mv $root/var/spool/asterisk /var/spool/
mkdir $root/var/spool/asterisk
install -d -o asterisk -g asterisk /etc/asterisk

# (entityid: it is made of a network card's address otherwise, and there is no network card.)
sed 's/^\\[options\\].*/&\\nentityid = 02:00:00:00:00:01/' $root/etc/asterisk/asterisk.conf >/etc/asterisk/asterisk.conf
cp $root/etc/asterisk/cdr_manager.conf /etc/asterisk/
cp -r /sources/lab/. /etc/asterisk/
sed -i '/^#include/d' /etc/asterisk/manager.conf
sed -i 's/,20,tT/,{RING_S},tT/' /etc/asterisk/extensions.conf
chown -R asterisk:asterisk /etc/asterisk /var/spool/asterisk

cat >/usr/sbin/asterisk <<'E'
#!/bin/sh
pid=$(systemctl show asterisk --property=MainPID --value)
exec nsenter --target "$pid" --mount --root --wd /usr/sbin/asterisk "$@"
E
chmod 0755 /usr/sbin/asterisk
cp $root/usr/lib/systemd/system/asterisk.service /etc/systemd/system/
mkdir /etc/systemd/system/asterisk.service.d
cat >/etc/systemd/system/asterisk.service.d/elsewhere.conf <<'E'
{_UNIT}
E
systemctl daemon-reload
systemctl enable --quiet --now asterisk
asterisk -rx 'core waitfullybooted'
"""


async def asterisk_is_there(host: Host) -> None:
    """Asterisk runs, and knows nothing of crmbridge."""
    shutil.copytree(LAB / "conf", host.sources / "lab")
    await host.do(_SET_UP)


class Line:
    """Somebody outside, the phone of 777, and the CRM.

    Each caller has a number of their own, so that each callback has its call.
    """

    def __init__(self, agent: Phone, trunk: Phone, crm: Receiver) -> None:
        self.agent, self.trunk, self.crm = agent, trunk, crm
        self.calls: list[Incoming] = []

    async def rings(self) -> Incoming:
        """Somebody calls 777, whose phone rings until it is told to answer."""
        self.agent.plan, times = NO_ANSWER, len(self.agent.calls) + 1
        caller = f"0330047{len(self.calls) + 10}"
        customer = self.trunk.dial("0723456777", caller=caller)
        async with asyncio.timeout(LIMIT_S):  # where an earlier part has failed, the phone may still be in its call
            ringing = await self.agent.called(times)
            await ringing.until_ringing()
        self.calls.append(Incoming(self.crm, caller, customer, ringing))
        return self.calls[-1]

    async def rings_and_is_told(self) -> Incoming:
        """The same; the CRM has been told of it."""
        call = await self.rings()
        await call.is_told(RING)
        return call

    async def goes_as_ever(self) -> Incoming:
        """A call from its beginning to its end, told as it goes."""
        call = await self.rings_and_is_told()
        await call.is_answered()
        await call.is_told(RING, ANSWER)
        await call.ends()
        return call


@dataclass(frozen=True)
class Incoming:
    """A call from outside."""

    crm: Receiver
    caller: str
    customer: Call
    ringing: Call

    def told(self) -> list[str]:
        """What the CRM has been told of it."""
        about = [one for one in self.crm.received if f"sNumber={self.caller}&" in one.target]
        assert all(one["sExt"] == "777" for one in about)
        return [one["operation"] for one in about]

    async def is_told(self, *operations: str) -> None:
        """Wait until the CRM has been told as much; it must be this."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.told()) < len(operations):
                await self.crm.wait_for(len(self.crm.received) + 1)
        assert self.told() == list(operations)

    async def is_answered(self) -> None:
        """Whose phone rings picks up; then they hear one another."""
        async with asyncio.timeout(LIMIT_S):
            await self.ringing.follow(PICK_UP)
            await self.ringing.audio.until_hears(self.customer.audio)

    async def ends(self) -> None:
        """The caller hangs up."""
        async with asyncio.timeout(LIMIT_S):
            await self.customer.hang_up()
            await self.ringing.until_over()
