"""The outbox on disks that hang, are full, become read-only or are not ours any more: popups go on, and once each."""

# ruff: noqa: ASYNC240  # nothing here waits for more than a chmod
from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.test_bridge import ANSWER, COMMAND, LIMIT_S, RING, Daemon, daemon, targets, trace, write
from tests.integration.test_outbox import AT, ATTEMPT, disconnect, ring, stored_again

from crmbridge.calls.events import Kind, State
from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.store import journal
from crmbridge.store.outbox import open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.schema import StoreError

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


@asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Another process is in the middle of a write: to us, a disk that does not come back."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, str(file), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert await process.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        await process.communicate(b"\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


async def test_a_disk_that_hangs_holds_a_callback_up_for_a_moment_and_the_next_not_at_all(file: Path) -> None:
    with capture_logs() as logs:
        async with open_outbox(file, patience_s=0.05, disk_retry_s=0.05) as outbox:
            (before,) = await outbox.add([ring("c0")])
            async with locked(file):
                both = await asyncio.gather(outbox.add([ring("c1"), ring("c2")]), outbox.add([ring("c2"), ring("c3")]))
                assert [[each.event.call for each in told] for told in both] == [["c1", "c2"], ["c3"]]
                states = [outbox.disk_hangs]
                assert [each.event.call for each in await outbox.add([ring("c4")])] == ["c4"]
                assert await outbox.add([ring("c0"), ring("c1"), ring("c4")]) == [], "each was told once already"
                assert await outbox.record(both[0][0].id, ATTEMPT, State.CONFIRMED)
                assert await outbox.changes() is None
                assert not outbox.disk_refuses
            await stored_again(outbox)
            assert [*states, outbox.disk_hangs] == [True, False]
            assert outbox.unstored == 0
            assert [each.event.call for each in await outbox.waiting()] == ["c0", "c2", "c3", "c4"]
            assert await outbox.add([ring(f"c{n}") for n in range(5)]) == [], "the late commit makes nothing new"
            assert len(await outbox.add([ring("c5")])) == 1
        async with open_outbox(file) as again:
            assert [each.id for each in await again.waiting()] == sorted(each.id for each in await again.waiting())
            assert (await again.waiting())[0] == before
    assert [each["event"] for each in logs if each["log_level"] != "debug"] == [
        "store.disk_hangs",
        "store.disk_keeps_up",
    ]


async def test_a_disk_that_hangs_for_longer_than_sqlite_waits_refuses_and_comes_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crmbridge.store.engine.BUSY_TIMEOUT_MS", 200)
    with capture_logs() as logs:
        async with open_outbox(file, patience_s=0.05, disk_retry_s=0.05) as outbox:
            async with locked(file):
                assert len(await outbox.add([ring("c1")])) == 1
                with pytest.raises(StoreError, match="nothing was changed"):
                    await outbox.drop(1, AT)
                assert outbox.disk_refuses
                assert len(await outbox.add([ring("c2")])) == 1
            await stored_again(outbox)
            assert [each.event.call for each in await outbox.waiting()] == ["c1", "c2"]
    said = [each["event"] for each in logs if each["log_level"] != "debug"]
    assert said == ["store.disk_hangs", "store.disk_refuses", "store.disk_back"]


async def test_a_command_by_hand_waits_for_a_disk_that_hangs(file: Path) -> None:
    async with open_outbox(file, patience_s=0.05, disk_retry_s=0.05) as outbox:
        (one,) = await outbox.add([ring("c1")])
        async with locked(file):
            drop = asyncio.create_task(outbox.drop(one.id, AT))
            assert len(await outbox.add([ring("c2")])) == 1
            assert not drop.done()
        assert await drop
        await stored_again(outbox)
        assert [each.event.call for each in await outbox.waiting()] == ["c2"]


async def test_a_disk_that_hangs_costs_no_threads_and_no_more_memory_than_its_limit(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BACKLOG_LIMIT", 100)
    with capture_logs() as logs:
        async with open_outbox(file, patience_s=0.05, disk_retry_s=0.05) as outbox:
            await outbox.add([ring("first")])
            await outbox.waiting()
            async with locked(file):
                threads = threading.active_count()
                told = [await outbox.add([ring(f"c{n}")]) for n in range(300)]
                assert [each.event.call for (each,) in told] == [f"c{n}" for n in range(300)], "all, and in order"
                assert outbox.unstored == 100
                assert threading.active_count() == threads
            await stored_again(outbox)
            assert [each.event.call for each in await outbox.waiting()] == ["first", *(f"c{n}" for n in range(100))]
            assert await outbox.add([ring("c200")]) == [], "not on disk, but told"
    (full,) = [each for each in logs if each["event"] == "store.backlog_full"]
    (back,) = [each for each in logs if each["event"] == "store.disk_keeps_up"]
    assert (full["writes"], back["writes_stored"], back["writes_lost"]) == (100, 100, 200)


async def test_a_stop_does_not_wait_for_ever_for_a_disk_that_hangs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "CLOSE_S", 0.05)
    monkeypatch.setattr("crmbridge.store.engine.BUSY_TIMEOUT_MS", 1000)
    with capture_logs() as logs:
        async with AsyncExitStack() as after, open_outbox(file, patience_s=0.05) as outbox:
            await after.enter_async_context(locked(file))
            await outbox.add([ring("c1")])
    assert (logs[-1]["event"], logs[-1]["writes"]) == ("store.writes_lost", 1)


@pytest.fixture
def folder_of_somebody() -> Iterator[Path]:
    """A folder that can be taken away from us, also where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="crmbridge-"))
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


async def test_permissions_lost_and_given_back(folder_of_somebody: Path) -> None:
    file = folder_of_somebody / "outbox.db"
    with capture_logs() as logs:
        async with open_outbox(file, disk_retry_s=0.05) as outbox:
            await outbox.add([ring("c0")])
            await disconnect(outbox)  # files that are open stay usable
            file.chmod(0o400)
            assert len(await outbox.add([ring("c1")])) == 1
            assert outbox.disk_refuses
            assert len(await outbox.add([ring("c2")])) == 1
            for each in folder_of_somebody.iterdir():
                each.chmod(0o600)  # the log beside it was made with the file's mode
            await stored_again(outbox)
            assert [each.event.call for each in await outbox.waiting()] == ["c0", "c1", "c2"]
            assert await outbox.add([ring("c0"), ring("c1"), ring("c2")]) == []
    refused = next(each for each in logs if each["event"] == "store.disk_refuses")
    assert "check its owner" in refused["reason"]
    assert logs[-1]["event"] == "store.disk_back"


async def test_popups_go_on_while_another_program_holds_the_outbox(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    """The installed daemon, with its real patience."""
    config = write(tmp_path, ami_port=pbx.port, url=await crm.start())
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        async with locked(tmp_path / "outbox.db"):
            await pbx.play(trace("01_did_to_ext_answered"), speed=10)
            assert await targets(crm, 2) == [RING, ANSWER]
            await bridge.logged("store.disk_hangs")
        await bridge.logged_one_of("store.disk_keeps_up", "store.disk_back")
        pbx.cut()
        await bridge.logged("ami.connected", times=2)
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 4) == [RING, ANSWER] * 2
        await bridge.logged("crm.confirmed", times=4)
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        assert len(await outbox.listing(Which(state=State.CONFIRMED))) == 4
    assert crm.targets == [RING, ANSWER] * 2


def in_a_namespace(script: str) -> tuple[str, ...]:
    """A command that mounts a disk that nobody else sees, and then is the daemon."""
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}; exec "$@"', "sh")


async def inside(bridge: Daemon, script: str) -> str:
    """Run a script where the daemon's disks are."""
    process = await asyncio.create_subprocess_exec(
        *("nsenter", "--mount", "--target", str(bridge.process.pid), "sh", "-ec", script),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate()
    assert process.returncode == 0, script
    return out.decode()


async def called_before_during_and_after(
    bridge: Daemon,
    pbx: SimulatedPbx,
    crm: Receiver,
    config: Path,
    *,
    fail: str,
    mend: str,
    said: str = "store.disk_refuses",
    back: str = "store.disk_back",
) -> None:
    """One call each; the disk fails after the first and is mended after the second."""
    call = trace("01_did_to_ext_answered")
    await bridge.logged("ami.connected")
    await pbx.play(call, speed=10)
    await bridge.logged("crm.confirmed", times=2)
    await inside(bridge, fail)
    try:
        await pbx.play(call, speed=10)
        assert await targets(crm, 4) == [RING, ANSWER] * 2
        await bridge.logged("crm.confirmed", times=4)
        await bridge.logged(said)
    finally:
        await inside(bridge, mend)
    await bridge.logged(back)
    pbx.cut()
    await bridge.logged("ami.connected", times=2)
    await pbx.play(call, speed=10)
    await bridge.logged("crm.confirmed", times=6)
    listed = json.loads(await inside(bridge, f"{COMMAND} outbox list --json --config {config}"))
    assert [one["state"] for one in listed] == ["confirmed"] * 6
    assert crm.targets == [RING, ANSWER] * 3, "each once, whatever became of the disk"


@pytest.mark.needs("mounts")
async def test_a_disk_that_is_full(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    state = tmp_path / "state"
    state.mkdir()
    config = write(tmp_path, ami_port=pbx.port, url=await crm.start(), state=state)
    mounted = in_a_namespace(f"mount -t tmpfs -o size=1m,mode=0700 tmpfs {state}")
    async with daemon(config, *mounted) as bridge:
        fill = f"dd if=/dev/zero of={state}/fill bs=1k 2>/dev/null || true"
        await called_before_during_and_after(bridge, pbx, crm, config, fail=fill, mend=f"rm {state}/fill")
        (said,) = await bridge.logged("store.disk_refuses")
        assert "the disk is full" in said["reason"]


@pytest.mark.needs("loop")
async def test_a_disk_that_the_kernel_makes_read_only(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    """As ext4 does after an error, with files open for writing; then another disk is mounted in its place."""
    state, image = tmp_path / "state", tmp_path / "disk"
    state.mkdir()
    config = write(tmp_path, ami_port=pbx.port, url=await crm.start(), state=state)
    mount = (
        f"truncate -s 8M {image} && mkfs.ext4 -q -F {image} && mount -o loop,errors=remount-ro {image} {state}"
        f" && chmod 0700 {state}"
    )
    async with daemon(config, *in_a_namespace(mount)) as bridge:
        fail = f'disk=$(findmnt -no SOURCE {state}); echo 1 >"/sys/fs/ext4/${{disk#/dev/}}/trigger_fs_error"'
        mend = f"mkdir {tmp_path}/new && cp -a {state}/. {tmp_path}/new && mount --bind {tmp_path}/new {state}"
        await called_before_during_and_after(bridge, pbx, crm, config, fail=fail, mend=mend)
        (said,) = await bridge.logged("store.disk_refuses")
        assert "mounted read-only" in said["reason"] or "the disk is full (see df) or fails" in said["reason"]


@pytest.mark.needs("loop")
async def test_a_disk_that_hangs_in_the_kernel(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    """A frozen file system: whoever writes sleeps, and can't even be killed, until it is thawed."""
    state, image = tmp_path / "state", tmp_path / "disk"
    state.mkdir()
    config = write(tmp_path, ami_port=pbx.port, url=await crm.start(), state=state)
    mount = f"truncate -s 8M {image} && mkfs.ext4 -q -F {image} && mount -o loop {image} {state} && chmod 0700 {state}"
    async with daemon(config, *in_a_namespace(mount)) as bridge:
        await called_before_during_and_after(
            bridge,
            pbx,
            crm,
            config,
            fail=f"fsfreeze --freeze {state}",
            mend=f"fsfreeze --unfreeze {state}",
            said="store.disk_hangs",
            back="store.disk_keeps_up",
        )
        (said,) = await bridge.logged("store.disk_hangs")
        assert said["waited_s"] == 1


@pytest.mark.needs("mounts")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
async def test_a_daemon_that_starts_on_a_disk_that_refuses_tells_and_takes_up_what_waited(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, trouble: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    config = write(tmp_path, ami_port=pbx.port, url=await crm.start(), state=state)
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        waits = ring("waits", "778", kind=Kind.ANSWER, at=datetime.now(UTC), pbx="pbx")
        await outbox.add([waits])
    mount = f"mount -t tmpfs -o size=1m,mode=0700 tmpfs {state}; cp {tmp_path}/outbox.db {state}"
    fail, mend = {
        "full": (f"(dd if=/dev/zero of={state}/fill bs=1k 2>/dev/null || true)", f"rm {state}/fill"),
        "read-only": (f"mount -o remount,ro {state}", f"mount -o remount,rw {state}"),
    }[trouble]
    async with daemon(config, *in_a_namespace(f"{mount}; {fail}")) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]
        await bridge.logged("crm.confirmed", times=2)
        await bridge.logged_one_of("cdr.not_stored")  # half a second after it came
        await inside(bridge, mend)
        await bridge.logged("store.disk_back")
        await targets(crm, 3)
        await bridge.logged("crm.confirmed", times=3)
        listed = json.loads(await inside(bridge, f"{COMMAND} outbox list --json --config {config}"))
    assert [one["state"] for one in listed] == ["confirmed"] * 3
    assert "sExt=778" in crm.targets[2]
    assert len(crm.targets) == 3
