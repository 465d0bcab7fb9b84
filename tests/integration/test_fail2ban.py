"""The shipped fail2ban filter, read by fail2ban itself, on lines that the running daemon has written.

Debian's package is unpacked, not installed: installed, it would begin to ban on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.asterisk.lab.rootfs import cache_folder
from tests.integration.test_bridge import COMMAND, LIMIT_S, write
from tests.needs import missing

ROOT = Path(__file__).parents[2]
FILTER = ROOT / "systemd" / "fail2ban" / "filter.d" / "crmbridge.conf"
DOWNLOAD_S = 120
FORGED = '203.0.113.1", "event": "http.login_failed", "level": "warning", "logger": "crmbridge.http'
"""What somebody would send to have another one banned."""


@pytest.fixture(scope="module")
def fail2ban() -> Path:
    """The unpacked package."""
    folder = cache_folder() / "fail2ban"
    if not (folder / "usr/bin/fail2ban-regex").exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            missing("fail2ban can't be had: no apt-get here")
        _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    fresh = folder.with_name(f"fail2ban-{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        subprocess.run(
            ["apt-get", "-qq", "download", "fail2ban"], cwd=fresh, check=True, timeout=DOWNLOAD_S, capture_output=True
        )
        (package,) = fresh.glob("fail2ban_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, fresh], check=True, timeout=DOWNLOAD_S)
        fresh.rename(folder)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        if not (folder / "usr/bin/fail2ban-regex").exists():  # another run may have been quicker
            missing(f"fail2ban can't be had from Debian's archive: {error}")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@pytest.fixture
async def journal(tmp_path: Path) -> Path:
    """What the daemon logged while somebody tried to log in, as fail2ban reads a journal: host, name, pid, line."""
    file = write(tmp_path, ami_port=1, url="http://127.0.0.1:1/", more="[log]\nformat = 'json'")
    process = await asyncio.create_subprocess_exec(
        COMMAND, "run", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines: list[str] = []

    async def until(event: str, times: int = 1) -> str:
        assert process.stderr is not None
        while sum(f'"event": "{event}"' in line for line in lines) < times:
            lines.append((await process.stderr.readline()).decode())
        return lines[-1]

    try:
        async with asyncio.timeout(LIMIT_S):
            port = int((await until("http.listening")).partition('"address": "127.0.0.1:')[2].partition('"')[0])
            for user, password in (("crm", "wrong"), ("crm", "http-s3cret"), (FORGED, FORGED), ("", "")):
                token = base64.b64encode(f"{user}:{password}".encode()).decode()
                await _ask(port, "127.0.0.44", "/nothing", f"Authorization: Basic {token}")
            await _ask(port, "127.0.0.45", f"/?{FORGED.replace(' ', '%20')}", "Authorization: Basic %%%")
            await _ask(port, "127.0.0.46", f"/{FORGED.replace(' ', '+')}", f"X-Forwarded-For: {FORGED}")
            await _ask(port, "127.0.0.47", "/ X")
            await until("http.login_failed", 4)
            await until("http.malformed")
            process.terminate()
            lines += (await process.stderr.read()).decode().splitlines(keepends=True)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    file = tmp_path / "journal"
    file.write_text("".join(f"pbx crmbridge[4711]: {line}" for line in lines))
    return file


async def _ask(port: int, source: str, path: str, *headers: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("mode", "banned"),
    [
        ("normal", ["127.0.0.44"] * 3 + ["127.0.0.45"]),
        ("aggressive", ["127.0.0.44"] * 3 + ["127.0.0.45", "127.0.0.47"]),
    ],
)
def test_fail2ban_finds_who_failed_and_nobody_else(fail2ban: Path, journal: Path, mode: str, banned: list[str]) -> None:
    filters = journal.parent / "fail2ban" / "filter.d"
    shutil.copytree(fail2ban / "etc" / "fail2ban", filters.parent)
    shutil.copy(FILTER, filters)
    done = subprocess.run(
        [
            *("/usr/bin/python3", fail2ban / "usr/bin/fail2ban-regex", "--config", filters.parent),
            *("--out", "ip", journal, f"crmbridge[mode={mode}]"),
        ],
        env={**os.environ, "PYTHONPATH": str(fail2ban / "usr/lib/python3/dist-packages")},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == banned, done.stderr + journal.read_text()


def test_the_jail_names_the_filter() -> None:
    jail = (FILTER.parents[1] / "jail.d" / "crmbridge.conf").read_text()
    assert "\nfilter = crmbridge\n" in jail
    assert "\nbackend = systemd\n" in jail
    assert "journalmatch = _SYSTEMD_UNIT=crmbridge.service" in FILTER.read_text()
