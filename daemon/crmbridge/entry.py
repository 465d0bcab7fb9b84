"""Where each `crmbridge` command begins. `run`, which stays in memory for months, loads what it needs and no more."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Entry point of the `crmbridge` command."""
    gc.disable()  # nothing of what modules make is garbage: not to look for it there is a tenth of the time to READY
    if sys.argv[1:2] == ["run"]:
        # structlog loads rich, where there is one, to draw tracebacks: 3 MB and 60 ms for what a daemon never does.
        sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say that there is none
        # Not the other commands, nor the demo: 4 MB and 100 ms.
        from crmbridge.cli_run import cli  # noqa: PLC0415  # see above

        del sys.modules["rich"]  # typer needs it for help and for mistakes in the command line
    else:
        from crmbridge.cli import cli  # noqa: PLC0415  # not for `run`
    gc.freeze()  # what there is now stays: it need not be looked through ever after
    gc.enable()
    cli()
