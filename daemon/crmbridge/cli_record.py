"""`crmbridge record`: what Asterisk says during a call, into a file that `crmbridge replay` reads."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from crmbridge import build, config, log
from crmbridge.calls.anonymous import Anonymous
from crmbridge.calls.tracker import Tracker
from crmbridge.config import Settings
from crmbridge.pbx.ami import PASSING, LoginRefusedError, explain
from crmbridge.pbx.visit import visit
from crmbridge.terminal import EX_IOERR, EX_UNAVAILABLE, ConfigOption, PbxOption, fail, load, one_pbx, until_stopped


def record(
    file: Annotated[Path, typer.Argument(help="A new file; - is standard output.")],
    seconds: Annotated[float | None, typer.Option(min=1, help="End after so many seconds.")] = None,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", help="Without callers' numbers and names: to be given away.")
    ] = False,
    config_file: ConfigOption = config.DEFAULT_FILE,
    pbx: PbxOption = None,
) -> None:
    """Record what Asterisk says, until Ctrl-C, for `crmbridge replay`. The daemon may run meanwhile."""
    settings = one_pbx(load(config_file), pbx)
    log.configure(level="error", form="console", mask_numbers=settings.log.mask_numbers)
    out = _opened(file)
    begun: list[bool] = []
    try:
        with out:
            write = _writer(out, anonymize=anonymize)
            until_stopped(lambda stop: _recorded(settings, write, seconds, begun, stop))
    except OSError as error:
        fail(f"{file} can't be written: {error.strerror}", EX_IOERR)
    finally:
        if not begun and str(file) != "-":
            file.unlink(missing_ok=True)  # ours, and of no use: the next try must not stumble over it
    which = f" --pbx {shlex.quote(settings.pbx.name)}" if settings.names_pbxes else ""
    typer.echo(f"recorded; `crmbridge replay --config {config_file}{which} {file}` shows what it leads to", err=True)


def _opened(file: Path) -> BinaryIO:
    """For its owner alone, and never a file that is there."""
    if str(file) == "-":
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        fail(f"{file} is there already and is left as it is: name a new file", EX_IOERR)
    except OSError as error:
        fail(f"{file} can't be written: {error.strerror}", EX_IOERR)


def _writer(out: BinaryIO, *, anonymize: bool) -> Callable[[bytes], None]:
    anonymous = Anonymous(Tracker.EVENTS, secrets.token_bytes(32)) if anonymize else None

    def write(data: bytes) -> None:
        out.write(anonymous.feed(data) if anonymous else data)
        out.flush()

    return write


async def _recorded(
    settings: Settings,
    write: Callable[[bytes], None],
    seconds: float | None,
    begun: list[bool],
    stop: asyncio.Event,
) -> None:
    """`begun`: gets an entry once what comes is worth to be kept."""
    failed: list[OSError] = []

    def take(data: bytes) -> None:
        try:
            if not failed:
                write(data)
        except OSError as error:  # in the transport's callback: nobody above would learn of it
            failed.append(error)
            stop.set()

    ami = settings.ami
    try:
        async with visit(build.ami_address(ami), ami.username, ami.secret.get_secret_value(), on_bytes=take) as session:
            await session.booted()
            session.ask_for_all()
            begun.append(True)
            if seconds is not None:
                asyncio.get_running_loop().call_later(seconds, stop.set)
            typer.echo("recording; place the call, Ctrl-C ends it", err=True)
            await session.stay(stop)
    except LoginRefusedError as error:
        fail(str(error), EX_UNAVAILABLE)
    except PASSING as error:
        fail(f"{settings.ami.host}:{settings.ami.port}: {explain(error)}", EX_UNAVAILABLE)
    if failed:
        raise failed[0]
