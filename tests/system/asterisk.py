"""A real Asterisk as a service of the host, with the lab's configuration, as it is before crmbridge comes.

Debian 12 has none: it runs by its own unit in a root filesystem of its own, as its own user, with /etc/asterisk and the
spool where an administrator looks for them.
"""

from __future__ import annotations

import shutil

from tests.asterisk.lab.pbx import HERE as LAB
from tests.system.host import Host

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
exec nsenter --target "$(systemctl show asterisk --property=MainPID --value)" --mount --root --wd /usr/sbin/asterisk "$@"
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
