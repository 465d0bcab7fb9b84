"""Records what a live Asterisk says of some calls, to a user who hears all and to ours: `python -m tests.bench.record`.

Needs root (the lab). The calls are the lab's scenarios, as `make record` plays them, one after another; both users
listen to the same call. What comes out lies in `recorded/`, one archive for each version and user.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.asterisk.lab import pbx
from tests.asterisk.lab.ami import session
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem
from tests.asterisk.lab.stage import STILL_S, perform
from tests.asterisk.scenarios import SCENARIOS
from tests.bench.busy import RECORDED, WEIGHTS, Reads

_BOOTED = b"Event: FullyBooted"
_END = b"\r\n\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.record", description=__doc__)
    parser.add_argument("--version", choices=sorted(RECIPES), action="append")
    for version in parser.parse_args().version or sorted(RECIPES):
        with root_filesystem(version) as root, Network() as network, pbx.running(version, root, network) as where:
            said = asyncio.run(_record(where))
        for reads, calls in said.items():
            _write(RECORDED / f"{version}-{reads}.tar.xz", calls)


async def _record(where: Pbx) -> dict[Reads, dict[str, bytes]]:
    said: dict[Reads, dict[str, bytes]] = {"all": {}, "shipped": {}}
    for name in WEIGHTS:
        async with (
            session(where, pbx.LAB_USER, pbx.LAB_SECRET) as everything,
            session(where, pbx.USER, pbx.SECRET) as ours,
        ):
            recording = await perform(where, SCENARIOS[name])
            await everything.until_still(STILL_S)
            said["all"][name], said["shipped"][name] = _events(everything.raw), _events(ours.raw)
        trouble = recording.disagreement()
        if trouble:
            raise SystemExit(f"{where.version} {name}: {trouble}")
        print(f"{where.version} {name}: {len(said['all'][name])} and {len(said['shipped'][name])} bytes", flush=True)
    return said


def _events(raw: bytearray) -> bytes:
    """Whole frames, without banner, login and FullyBooted."""
    begin = raw.find(_END, raw.find(_BOOTED)) + len(_END)
    return bytes(raw[begin : raw.rfind(_END) + len(_END)])


def _write(file: Path, calls: Mapping[str, bytes]) -> None:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w:xz") as archive:
        for name, raw in calls.items():
            about = tarfile.TarInfo(f"{name}.ami")
            about.size = len(raw)
            archive.addfile(about, io.BytesIO(raw))
    print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
