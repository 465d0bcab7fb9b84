"""The commands. Each turns what can go wrong into one clear line on standard error and an exit code."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.markup import escape
from rich.table import Table

from crmbridge import __version__, build, checks, config, log, terminal
from crmbridge.calls.clients import Clients
from crmbridge.calls.events import CallEvent
from crmbridge.calls.tracker import Tracker
from crmbridge.cli_calls import sync
from crmbridge.cli_questionnaire import questionnaire
from crmbridge.cli_record import record
from crmbridge.cli_run import run
from crmbridge.cli_sql import sql_access
from crmbridge.cli_story import story
from crmbridge.cli_support import calls, clicks, outbox_cli
from crmbridge.config import ConfigError, NumberSettings, PbxSettings, TellSettings
from crmbridge.demo import show
from crmbridge.pbx.wire import FrameReader
from crmbridge.terminal import EX_IOERR, ConfigOption, JsonOption, PbxOption

_CHUNK = 1 << 16
_SHOWN = {
    checks.State.OK: "[green]ok[/]",
    checks.State.WARN: "[yellow]warn[/]",
    checks.State.FAIL: "[red]FAIL[/]",
}
_EXAMPLE_CLIENT = "10"
"""ClientId of the client's questionnaire, for a replay without settings."""

cli = typer.Typer(
    help="Joins an Asterisk PBX to the FixDigital CRM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_cli = typer.Typer(help="The settings.", no_args_is_help=True)
cli.add_typer(config_cli, name="config")

cli.add_typer(outbox_cli, name="outbox")
cli.command()(calls)
cli.command()(clicks)
cli.command()(questionnaire)
cli.command()(record)
cli.command()(run)
cli.command()(sql_access)
cli.command()(story)
cli.command()(sync)


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    # Not to standard output, structlog's own choice: that may be read by a program, or by a database.
    log.configure(level="warning", form="console", mask_numbers=True)


@cli.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Play each recorded call once, compare, and end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the bridge's own log lines, too.")] = False,
) -> None:
    """See it work without a PBX: recorded real calls, the real bridge, and a CRM that shows what it is told."""
    log.configure(level="info" if verbose else "error", form="console", mask_numbers=False)
    console = terminal.console()
    if once:
        ended = asyncio.run(show.once(console))
        raise typer.Exit(0 if ended else 1)
    terminal.until_stopped(lambda stop: show.forever(console, stop))


@cli.command()
def replay(
    traces: Annotated[list[Path], typer.Argument(help="Raw AMI bytes, as they came from the socket; - is stdin.")],
    config_file: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE")] = None,
    pbx: PbxOption = None,
) -> None:
    """Print the callbacks that a recording would lead to, one JSON object a line. Nothing is sent."""
    for trace in traces:
        tracker = _tracker(config_file, pbx)
        reader = FrameReader(Tracker.EVENTS)
        try:
            with sys.stdin.buffer if str(trace) == "-" else trace.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    for frame in reader.feed(chunk):
                        for event in tracker.handle(frame, datetime.now(UTC)):
                            typer.echo(json.dumps(_as_callback(event), ensure_ascii=False))
        except OSError as error:
            terminal.fail(f"{trace} can't be read: {error.strerror}", EX_IOERR)


@cli.command()
def check(config_file: ConfigOption = config.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """Try each link of the chain, from the settings to the CRM, and say what to do about those that fail.

    A warning is what the bridge works with, and somebody should know; only what fails makes the exit code 1.
    """
    log.configure(level="error", form="console", mask_numbers=False)
    try:
        results = asyncio.run(checks.all_links(config.load(config_file)))
    except ConfigError as error:
        results = [checks.of_settings(str(error))]
    if as_json:
        told = [{"link": r.name, "ok": r.ok, "state": r.state.value, "found": r.found} for r in results]
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        table = Table("", "link", "found", show_edge=False)
        for result in results:
            table.add_row(_SHOWN[result.state], result.name, escape(result.found))
        terminal.console().print(table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


@config_cli.command("show")
def config_show(config_file: ConfigOption = config.DEFAULT_FILE) -> None:
    """Print the settings as they are in force, defaults included, secrets hidden."""
    settings = terminal.load(config_file)
    empty = config.SHORT_FORM if settings.names_pbxes else ("pbxes",)
    shown = {name: section for name, section in settings.model_dump().items() if name not in empty}
    typer.echo(json.dumps(_plain(shown), indent=2, ensure_ascii=False))


@config_cli.command("check")
def config_check(config_file: ConfigOption = config.DEFAULT_FILE) -> None:
    """Name every mistake in the settings, without trying anything out; `crmbridge check` tries."""
    terminal.load(config_file)
    typer.echo(f"no mistakes in {config_file}")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, SecretStr):
        return "(hidden)"
    return value if isinstance(value, bool | int | float | None) else str(value)


def _tracker(config_file: Path | None, name: str | None) -> Tracker:
    """The tracker of these settings; without any, of the defaults and the questionnaire's client."""
    settings = terminal.one_pbx(terminal.load(config_file), name) if config_file else None
    pbx = settings.pbx if settings else PbxSettings()
    clients = build.clients(settings.crm) if settings else Clients(_EXAMPLE_CLIENT)
    numbers = settings.numbers if settings else NumberSettings()
    tell = settings.tell if settings else TellSettings()
    return build.tracker(pbx, tell, build.endpoints(pbx), clients, build.numbers(numbers))


def _as_callback(event: CallEvent) -> dict[str, str]:
    return {
        "operation": event.kind.value,
        "sExt": event.extension,
        "sNumber": event.number,
        "ClientId": event.client_id,
        "linkedid": event.linkedid,
        "uniqueid": event.call,
    }
