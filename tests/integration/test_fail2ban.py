"""The shipped fail2ban filter, read by fail2ban itself, on lines that the running daemon has written.

Debian's package is unpacked, not installed: installed, it would begin to ban on this machine.
"""

from __future__ import annotations

import ast
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
JAIL = ROOT / "systemd" / "fail2ban" / "jail.d" / "crmbridge.conf"
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
        if not _apt_get("download", "fail2ban", cwd=fresh) and os.geteuid() == 0:
            _apt_get("update", cwd=fresh)  # what is known of the archive may be missing, or too old
            _apt_get("download", "fail2ban", cwd=fresh)
        packages = list(fresh.glob("fail2ban_*.deb"))
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, fresh], check=True, timeout=DOWNLOAD_S)
        if packages and not folder.exists():  # another run may have been quicker
            fresh.rename(folder)
    except (subprocess.SubprocessError, OSError) as error:
        if not (folder / "usr/bin/fail2ban-regex").exists():
            missing(f"fail2ban can't be had from Debian's archive: {error}")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if not (folder / "usr/bin/fail2ban-regex").exists():
        missing("fail2ban can't be had from Debian's archive")


def _apt_get(*arguments: str, cwd: Path) -> bool:
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60", *arguments]
    return subprocess.run(command, cwd=cwd, timeout=DOWNLOAD_S, capture_output=True, check=False).returncode == 0


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


@pytest.fixture
def settings(fail2ban: Path, tmp_path: Path) -> Path:
    """fail2ban's own settings, with ours put where the files say that they go."""
    folder = tmp_path / "etc"
    shutil.copytree(fail2ban / "etc" / "fail2ban", folder)
    for ours in (FILTER, JAIL):
        shutil.copy(ours, folder / ours.parent.name)
    return folder


def run(fail2ban: Path, program: str, *arguments: object) -> str:
    """What a program of fail2ban's prints."""
    done = subprocess.run(
        ["/usr/bin/python3", fail2ban / "usr/bin" / program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(fail2ban / "usr/lib/python3/dist-packages")},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("logtype", ["journal", "file"])
@pytest.mark.parametrize(
    ("mode", "banned"),
    [
        ("normal", ["127.0.0.44"] * 3 + ["127.0.0.45"]),
        ("aggressive", ["127.0.0.44"] * 3 + ["127.0.0.45", "127.0.0.47"]),
    ],
)
def test_fail2ban_finds_who_failed_and_nobody_else(
    fail2ban: Path, settings: Path, journal: Path, mode: str, banned: list[str], logtype: str
) -> None:
    options = f"crmbridge[mode={mode}, logtype={logtype}]"
    found = run(fail2ban, "fail2ban-regex", "--config", settings, "--out", "ip", journal, options)
    assert found.split() == banned, journal.read_text()


def test_fail2ban_reads_the_jail(fail2ban: Path, settings: Path) -> None:
    commands = [ast.literal_eval(line) for line in run(fail2ban, "fail2ban-client", "-c", settings, "-d").splitlines()]
    assert ["add", "crmbridge", "systemd"] in commands
    assert ["set", "crmbridge", "addjournalmatch", "_SYSTEMD_UNIT=crmbridge.service"] in commands
    (regex,) = [one[3] for one in commands if one[:3] == ["set", "crmbridge", "addfailregex"]]
    assert r"http\.login_failed" in regex
    assert ["start", "crmbridge"] in commands
