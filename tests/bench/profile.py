"""Draws where the daemon's time goes in a busy minute: `python -m tests.bench.profile docs/profile.svg`.

Needs py-spy (PyPI) on the PATH. Fifty simulated calls a second, as in section `rings`; only who holds the interpreter's
lock is sampled, which leaves out waiting for the disk and for the network.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.busy import recorded
from tests.bench.rig import calls, rig
from tests.bench.rings import play

RATE, LASTS_S = 50, 60
_WARM = 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--samples", type=int, default=50, help="a second; more make a larger picture")
    chosen = parser.parse_args()
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        sys.exit("py-spy is not on the PATH: pip install py-spy")
    asyncio.run(_draw(py_spy, chosen.picture, chosen.samples))


async def _draw(py_spy: str, picture: Path, samples: int) -> None:
    template = recorded("22", "shipped")["did_answered"]
    with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        async with rig(Path(folder)) as one:
            await play(one, calls(template, 0, _WARM), RATE)
            what = ["--gil", "--format", "flamegraph", "--function", "--rate", str(samples), "--duration", str(LASTS_S)]
            command = [py_spy, "record", *what, "--pid", str(one.pid), "--output", str(picture)]
            drawing = await asyncio.create_subprocess_exec(*command)
            await play(one, calls(template, _WARM, RATE * LASTS_S), RATE)
            await drawing.wait()


if __name__ == "__main__":
    main()
