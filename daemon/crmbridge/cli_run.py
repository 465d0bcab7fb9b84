"""`crmbridge run`: the daemon. It stands apart from the other commands, so that it need not load theirs."""

from __future__ import annotations

import asyncio
import faulthandler
import signal

import typer

from crmbridge import app, config, log, terminal
from crmbridge.systemd import service_manager
from crmbridge.terminal import ConfigOption

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _commands() -> None:
    """Joins an Asterisk PBX to the FixDigital CRM."""


@cli.command()
def run(config_file: ConfigOption = config.DEFAULT_FILE) -> None:
    """Be the bridge, until SIGTERM or SIGINT. SIGHUP makes it read its settings again."""
    settings = terminal.load(config_file)
    log.configure(level=settings.log.level, form=settings.log.format, mask_numbers=settings.log.mask_numbers)
    log.catch_the_rest()
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: where it hung is then in the journal

    async def bridge(stop: asyncio.Event) -> None:
        reloads = app.Reloads(asyncio.Event(), lambda: config.load(config_file))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.asked.set)
        telling = asyncio.create_task(log.tell_held_back())
        try:
            await app.run(settings, stop, manager=service_manager(), reloads=reloads)
        finally:
            telling.cancel()

    terminal.until_stopped(bridge)
